-- mechanism: look-alikes
-- expect: nothing

-- @setup
CREATE FUNCTION named(secrets_getter int) RETURNS int LANGUAGE sql AS 'SELECT $1'

-- @run
SELECT named(secrets_getter => 1)
