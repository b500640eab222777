-- mechanism: names in two readings
-- encoding: WIN1252, cp1252
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=prix €, operation=read

-- @run
SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'prix €')
