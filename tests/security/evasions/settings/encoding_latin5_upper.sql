-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- encoding: LATIN5, iso8859-9

-- @run
SELECT 'ĞİŞ', ENCRYPTED_SECRETS.SECRETS_GETTER('00000000-0000-4000-8000-00000000000a', 'alpha')
