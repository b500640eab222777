-- mechanism: look-alikes
-- expect: nothing

-- @run
SELECT json_build_object('secrets_getter', 1) ->> 'secrets_getter'
