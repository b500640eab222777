-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION with_default(v text DEFAULT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')) RETURNS int LANGUAGE sql AS 'SELECT length($1)'

-- @run
SELECT with_default()
