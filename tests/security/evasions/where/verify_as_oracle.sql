-- mechanism: WHERE
-- expect: function=encrypted_secrets.secrets_verify(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=pass, operation=verify

-- @run
SELECT 1 WHERE encrypted_secrets.secrets_verify('00000000-0000-4000-8000-00000000000a', 'pass', 'CANARYVALUE-pass')
