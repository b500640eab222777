-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION reads(uuid, text) RETURNS text LANGUAGE sql AS 'SELECT encrypted_secrets.secrets_getter($1, $2)'

CREATE OPERATOR ==> (LEFTARG = uuid, RIGHTARG = text, FUNCTION = reads)

-- @run
SELECT '00000000-0000-4000-8000-00000000000a'::uuid ==> 'alpha'
