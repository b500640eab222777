-- mechanism: domains and checks
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE FUNCTION hid(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

CREATE TABLE excl (v text, EXCLUDE USING btree (hid(v) WITH =))

GRANT ALL ON excl TO app_user

-- @run
INSERT INTO excl VALUES ('a')
