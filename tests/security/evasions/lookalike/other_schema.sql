-- mechanism: look-alikes
-- expect: nothing

-- @setup
CREATE SCHEMA other

GRANT USAGE ON SCHEMA other TO PUBLIC

CREATE FUNCTION other.secrets_getter(int) RETURNS int LANGUAGE sql AS 'SELECT 1'

-- @run
SELECT other.secrets_getter(1)
