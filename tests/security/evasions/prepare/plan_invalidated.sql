-- mechanism: PREPARE
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- also: definition

-- @setup
CREATE FUNCTION hid(text) RETURNS text LANGUAGE sql AS 'SELECT $1'

ALTER FUNCTION hid(text) OWNER TO app_user

-- @run
PREPARE p AS SELECT hid('x')

EXECUTE p

CREATE OR REPLACE FUNCTION hid(text) RETURNS text LANGUAGE sql AS $$ SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') $$

EXECUTE p
