-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TYPE text_of_owner AS (v text)

CREATE FUNCTION to_text(owners) RETURNS text_of_owner LANGUAGE sql AS 'SELECT ROW(encrypted_secrets.secrets_getter($1.owner, $1.name))::text_of_owner'

CREATE CAST (owners AS text_of_owner) WITH FUNCTION to_text(owners)

-- @run
SELECT (SELECT o FROM owners o WHERE id = 1)::text_of_owner
