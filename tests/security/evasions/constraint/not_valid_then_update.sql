-- mechanism: domains and checks
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION hid(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

CREATE TABLE checked (v text)

INSERT INTO checked VALUES ('a')

ALTER TABLE checked ADD CHECK (hid(v) IS NOT NULL) NOT VALID

GRANT ALL ON checked TO app_user

-- @run
UPDATE checked SET v = 'b'
