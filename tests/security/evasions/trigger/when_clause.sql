-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE target (v text)

CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$

CREATE TRIGGER t BEFORE INSERT ON target FOR EACH ROW WHEN (encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NOT NULL) EXECUTE FUNCTION nothing()

GRANT ALL ON target TO app_user

-- @run
INSERT INTO target VALUES ('x')
