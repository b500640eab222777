-- mechanism: EXPLAIN
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION folded(n text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', n); END $$

-- @run
EXPLAIN (COSTS OFF) SELECT folded('alpha')
