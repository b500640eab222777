-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT current_setting('secrets_getter.x', true)
