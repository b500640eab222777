-- mechanism: CALL
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read

-- @setup
CREATE PROCEDURE twice() LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); COMMIT; PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'beta'); ROLLBACK; END $$

-- @run
CALL twice()
