-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE parent (id int PRIMARY KEY)

CREATE TABLE child (id int REFERENCES parent ON UPDATE CASCADE)

CREATE FUNCTION after_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN NULL; END $$

CREATE TRIGGER t AFTER UPDATE ON child FOR EACH ROW EXECUTE FUNCTION after_it()

INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1); GRANT ALL ON parent, child TO app_user

-- @run
UPDATE parent SET id = 2
