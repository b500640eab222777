-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT 1 -- encrypted_secrets.secrets_getter('x', 'y')
