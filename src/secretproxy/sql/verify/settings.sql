-- Verify secretproxy:settings on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM secretproxy.settings WHERE direct_calls OPERATOR(pg_catalog.=) ANY (ARRAY['log', 'refuse']);
ROLLBACK;
