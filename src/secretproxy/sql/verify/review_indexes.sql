-- Verify secretproxy:review_indexes on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 6)::int FROM pg_catalog.pg_index i
 WHERE i.indisvalid AND i.indexrelid OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy.access_log_owner_idx'::pg_catalog.regclass, 'secretproxy.access_log_secret_idx'::pg_catalog.regclass,
       'secretproxy.access_log_names_idx'::pg_catalog.regclass, 'secretproxy.access_log_user_idx'::pg_catalog.regclass, 'secretproxy.access_log_rare_idx'::pg_catalog.regclass,
       'secretproxy.access_log_failed_idx'::pg_catalog.regclass]);
ROLLBACK;
