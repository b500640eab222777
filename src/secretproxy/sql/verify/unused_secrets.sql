-- Verify secretproxy:unused_secrets on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 'secretproxy.names_to_mask()'::pg_catalog.regprocedure, 'secretproxy.stored_names()'::pg_catalog.regprocedure;
ROLLBACK;
