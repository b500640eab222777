-- Revert secretproxy:unused_secrets from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.stored_names(), secretproxy.names_to_mask();
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'unused_secrets';
COMMIT;
