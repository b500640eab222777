-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=*, operation=read

-- @run
SET client_encoding = 'LATIN1'

SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'schl' || chr(252) || 'ssel')
