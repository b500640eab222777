-- mechanism: EXPLAIN
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE FUNCTION steady(n text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', n); END $$;
ANALYZE owners

-- @run
EXPLAIN (COSTS OFF) SELECT id FROM owners WHERE name = steady('alpha')
