-- Verify secretproxy:access_log on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.has_table_privilege('secretproxy_writer', 'secretproxy.access_log', 'INSERT')::int;
SELECT 1 OPERATOR(pg_catalog./) (NOT pg_catalog.has_table_privilege('secretproxy_writer', 'secretproxy.access_log', 'SELECT, UPDATE, DELETE, TRUNCATE'))::int;
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.has_table_privilege('secretproxy_auditor', 'secretproxy.access_log', 'SELECT')::int;
SELECT 1 OPERATOR(pg_catalog./) (NOT pg_catalog.has_table_privilege('secretproxy_auditor', 'secretproxy.access_log', 'INSERT, UPDATE, DELETE, TRUNCATE'))::int;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.>=) 2)::int FROM pg_catalog.pg_trigger WHERE tgrelid OPERATOR(pg_catalog.=) 'secretproxy.access_log'::pg_catalog.regclass AND tgenabled OPERATOR(pg_catalog.<>) 'D' AND NOT tgisinternal;
ROLLBACK;
