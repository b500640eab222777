-- mechanism: names in two readings
-- encoding: LATIN1, latin-1
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=café, operation=read

-- @run
SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'café')
