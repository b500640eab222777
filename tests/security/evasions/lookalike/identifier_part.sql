-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT 1 AS my_secrets_getter_2
