-- mechanism: look-alikes
-- expect: nothing

-- @run
LISTEN secrets_getter
