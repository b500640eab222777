-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE kept (id int PRIMARY KEY, v text);
INSERT INTO kept VALUES (1, 'old');
GRANT ALL ON kept TO app_user;
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce(NEW, OLD); END $$;
CREATE FUNCTION asks() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NULL; END $$;
CREATE TRIGGER t BEFORE UPDATE ON kept FOR EACH ROW WHEN (asks()) EXECUTE FUNCTION fired()

-- @run
UPDATE kept SET v = 'q'
