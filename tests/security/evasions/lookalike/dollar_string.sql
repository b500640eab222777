-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT $x$ SELECT encrypted_secrets.secrets_getter('x', 'y') $x$
