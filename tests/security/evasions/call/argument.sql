-- mechanism: CALL
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE PROCEDURE swallow(v text) LANGUAGE plpgsql AS $$ BEGIN NULL; END $$

-- @run
CALL swallow(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))
