-- mechanism: CTE
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=3

-- @run
WITH RECURSIVE r(n, v) AS (SELECT 1, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') UNION ALL SELECT n + 1, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') FROM r WHERE n < 3) SELECT n FROM r
