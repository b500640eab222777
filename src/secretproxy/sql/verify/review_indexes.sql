-- Verify secretproxy:review_indexes on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (count(*) = 6)::int FROM pg_index i
 WHERE i.indisvalid AND i.indexrelid IN ('secretproxy.access_log_owner_idx'::regclass, 'secretproxy.access_log_secret_idx'::regclass,
       'secretproxy.access_log_names_idx'::regclass, 'secretproxy.access_log_user_idx'::regclass, 'secretproxy.access_log_rare_idx'::regclass,
       'secretproxy.access_log_failed_idx'::regclass);
ROLLBACK;
