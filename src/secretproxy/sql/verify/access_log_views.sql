-- Verify secretproxy:access_log_views on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT at, db_user, accessed_by, owner_id, secret_names, outcome, how FROM secretproxy.secret_access WHERE false;
SELECT id, owner_id, secret_name, accessed_at, accessed_by FROM secretproxy.secret_access_log WHERE false;
ROLLBACK;
