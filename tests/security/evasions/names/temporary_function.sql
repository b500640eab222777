-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- also: definition

-- @run
CREATE FUNCTION pg_temp.peek() RETURNS text LANGUAGE sql AS $$ SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') $$

SELECT pg_temp.peek()
