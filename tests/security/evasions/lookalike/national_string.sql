-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT N'encrypted_secrets.secrets_getter(1, 2)', X'00', B'1'
