-- Verify secretproxy:roles on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (count(*) = 4)::int FROM pg_roles
 WHERE rolname IN ('secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables')
   AND NOT rolcanlogin AND NOT rolsuper AND NOT rolbypassrls;
-- None of the four is a member of another.
SELECT 1 / (count(*) = 0)::int FROM pg_auth_members m
 WHERE m.roleid::regrole::text IN ('secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables')
   AND m.member::regrole::text IN ('secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables');
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'secretproxy_writer';
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'secretproxy_auditor';
SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'authenticated';
SELECT 1 / pg_has_role('secretproxy_owner', 'pg_read_all_stats', 'USAGE')::int;
SELECT 1 / pg_has_role('secretproxy_keys', 'pg_read_all_stats', 'USAGE')::int;
ROLLBACK;
