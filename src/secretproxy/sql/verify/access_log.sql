-- Verify secretproxy:access_log on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / has_table_privilege('secretproxy_writer', 'secretproxy.access_log', 'INSERT')::int;
SELECT 1 / (NOT has_table_privilege('secretproxy_writer', 'secretproxy.access_log', 'SELECT, UPDATE, DELETE, TRUNCATE'))::int;
SELECT 1 / has_table_privilege('secretproxy_auditor', 'secretproxy.access_log', 'SELECT')::int;
SELECT 1 / (NOT has_table_privilege('secretproxy_auditor', 'secretproxy.access_log', 'INSERT, UPDATE, DELETE, TRUNCATE'))::int;
SELECT 1 / (count(*) >= 2)::int FROM pg_trigger WHERE tgrelid = 'secretproxy.access_log'::regclass AND tgenabled <> 'D' AND NOT tgisinternal;
ROLLBACK;
