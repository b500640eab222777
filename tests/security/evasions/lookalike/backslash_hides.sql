-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT E'\', encrypted_secrets.secrets_getter(1, 2) --'
