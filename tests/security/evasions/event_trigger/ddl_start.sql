-- mechanism: event triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION watched() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$;
CREATE EVENT TRIGGER e ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION watched()

-- @run
CREATE TABLE made (i int)
