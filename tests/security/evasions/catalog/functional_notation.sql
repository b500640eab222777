-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION revealed(owners) RETURNS text LANGUAGE sql AS 'SELECT encrypted_secrets.secrets_getter($1.owner, $1.name)'

-- @run
SELECT o.revealed FROM owners o WHERE id = 1
