-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- encoding: UHC, cp949

-- @run
SELECT '곸', encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'), '곸'
