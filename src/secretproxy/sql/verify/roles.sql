-- Verify secretproxy:roles on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 4)::int FROM pg_catalog.pg_roles
 WHERE rolname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables'])
   AND NOT rolcanlogin AND NOT rolsuper AND NOT rolbypassrls;
-- None of the four is a member of another.
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 0)::int FROM pg_catalog.pg_auth_members m
 WHERE m.roleid::pg_catalog.regrole::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables'])
   AND m.member::pg_catalog.regrole::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables']);
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'secretproxy_writer';
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'secretproxy_auditor';
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'authenticated';
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.pg_has_role('secretproxy_owner', 'pg_read_all_stats', 'USAGE')::int;
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.pg_has_role('secretproxy_keys', 'pg_read_all_stats', 'USAGE')::int;
ROLLBACK;
