-- mechanism: CTE
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=0

-- @run
WITH s AS (SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') v) SELECT 1
