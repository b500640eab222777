-- mechanism: event triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, how=direct
-- needs: server 17

-- @setup
CREATE FUNCTION greets() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF session_user = 'app_user' THEN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END IF; END $$

CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION greets()

-- @run
SELECT 1
