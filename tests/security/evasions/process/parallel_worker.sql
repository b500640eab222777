-- mechanism: processes of nobody
-- expect: nothing

-- @setup
CREATE FUNCTION mislabelled(n int) RETURNS text LANGUAGE plpgsql PARALLEL SAFE COST 100000 AS $$ DECLARE v text; BEGIN
EXECUTE 'SELECT encrypted_' || 'secrets.secrets_' || 'getter($1, $2)' INTO v USING '00000000-0000-4000-8000-00000000000a'::uuid, 'alpha'::text; RETURN v; END $$;
CREATE TABLE many AS SELECT i FROM generate_series(1, 3000) i;
GRANT SELECT ON many TO PUBLIC;
ANALYZE many

-- @run
SET parallel_setup_cost = 0

SET parallel_tuple_cost = 0

SET min_parallel_table_scan_size = 0

SET parallel_leader_participation = off

SELECT count(mislabelled(i)) FROM many WHERE i < 4
