-- mechanism: many calls
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=3000
-- protocol: simple

-- @setup
CREATE FUNCTION each_one(int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

-- @run
SELECT count(each_one(g)) FROM generate_series(1, 3000) g
