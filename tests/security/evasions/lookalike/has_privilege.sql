-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT has_function_privilege('encrypted_secrets.secrets_getter(uuid,text,text)', 'execute')
