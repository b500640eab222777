-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=schlüssel, operation=read
-- encoding: LATIN1, latin-1

-- @run
SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'schlüssel')
