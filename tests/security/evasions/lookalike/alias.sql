-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT 1 AS secrets_getter
