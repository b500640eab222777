-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT $secrets_getter$ encrypted_secrets.secrets_getter(1) $secrets_getter$
