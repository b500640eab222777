-- mechanism: CALL
-- expect: function=encrypted_secrets.secrets_delete(uuid,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=delete

-- @setup
CREATE PROCEDURE removes() LANGUAGE sql AS $$ SELECT encrypted_secrets.secrets_delete('00000000-0000-4000-8000-00000000000a', 'alpha'); $$

-- @run
CALL removes()
