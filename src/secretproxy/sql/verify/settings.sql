-- Verify secretproxy:settings on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / count(*) FROM secretproxy.settings WHERE direct_calls IN ('log', 'refuse');
ROLLBACK;
