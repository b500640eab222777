-- mechanism: PREPARE and EXECUTE
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read

-- @run
PREPARE p(uuid, text) AS SELECT encrypted_secrets.secrets_getter($1, $2)

EXECUTE p('00000000-0000-4000-8000-00000000000a', 'beta')
