-- Revert secretproxy:review_indexes from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP INDEX IF EXISTS secretproxy.access_log_rare_idx, secretproxy.access_log_owner_idx, secretproxy.access_log_secret_idx, secretproxy.access_log_names_idx, secretproxy.access_log_user_idx,
    secretproxy.access_log_failed_idx;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'review_indexes';
COMMIT;
