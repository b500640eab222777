-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent ON DELETE CASCADE);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1);
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN coalesce(NEW, OLD); END $$;
CREATE TRIGGER t AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION fired();
GRANT ALL ON parent, child TO app_user

-- @run
DELETE FROM parent
