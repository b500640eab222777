-- Verify secretproxy:roles on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'secretproxy_owner' AND NOT rolcanlogin AND NOT rolsuper;
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'secretproxy_writer';
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'secretproxy_auditor';
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'authenticated';
SELECT 1 / pg_has_role('secretproxy_owner', 'pg_read_all_stats', 'USAGE')::int;
ROLLBACK;
