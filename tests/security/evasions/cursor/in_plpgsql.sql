-- mechanism: cursors
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION reads() RETURNS text LANGUAGE plpgsql AS $$ DECLARE c CURSOR FOR SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); v text; BEGIN OPEN c; FETCH c INTO v; CLOSE c; RETURN v; END $$

-- @run
SELECT reads()
