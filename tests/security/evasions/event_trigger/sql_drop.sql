-- mechanism: event triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION watched() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$;
CREATE TABLE gone (i int);
ALTER TABLE gone OWNER TO app_user;
CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION watched()

-- @run
DROP TABLE gone
