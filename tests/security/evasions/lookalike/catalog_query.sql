-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT count(*) FROM pg_proc WHERE proname = 'secrets_getter'
