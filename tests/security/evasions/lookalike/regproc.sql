-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT 'encrypted_secrets.secrets_getter'::regproc::text
