-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION listed() RETURNS TABLE (v text) LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT encrypted_'||'secrets.secrets_getter($1, $2)' USING '00000000-0000-4000-8000-00000000000a'::uuid, 'alpha'; END $$

-- @run
SELECT t.v FROM listed() AS t, LATERAL (SELECT 1) AS l
