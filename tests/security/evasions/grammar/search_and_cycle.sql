-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
WITH RECURSIVE r AS (SELECT 1 AS n, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') AS v UNION ALL SELECT n + 1, v FROM r WHERE n < 3) CYCLE n SET c USING p SELECT * FROM r
