-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read

-- @setup
CREATE TABLE kept (id int PRIMARY KEY, v text);
INSERT INTO kept VALUES (1, 'old');
GRANT ALL ON kept TO app_user;
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', v) FROM fresh; RETURN NULL; END $$;
CREATE TRIGGER t AFTER INSERT ON kept REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION fired()

-- @run
INSERT INTO kept SELECT id + 20, name FROM owners
