-- Revert secretproxy:key_proof from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.key_proof(pg_catalog.bytea);
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'key_proof';
COMMIT;
