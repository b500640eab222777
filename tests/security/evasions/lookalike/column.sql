-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT secrets_getter FROM (SELECT 1 AS secrets_getter) t
