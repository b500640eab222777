-- mechanism: domains and checks
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE FUNCTION hid(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

CREATE DOMAIN checked_text AS text CHECK (hid(VALUE) IS NOT NULL)

CREATE FUNCTION takes(checked_text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'

-- @run
SELECT takes('x')
