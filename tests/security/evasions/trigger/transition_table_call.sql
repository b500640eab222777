-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=2

-- @setup
CREATE TABLE watched (id int)

CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') FROM fresh; RETURN NULL; END $$

CREATE TRIGGER s AFTER INSERT ON watched REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION seen()

GRANT ALL ON watched TO app_user

-- @run
INSERT INTO watched VALUES (1), (2)
