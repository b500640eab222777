-- mechanism: look-alikes
-- expect: nothing

-- @run
WITH secrets_getter AS (SELECT 1 AS v) SELECT v FROM secrets_getter
