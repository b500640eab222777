-- Verify secretproxy:stored_secrets on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 18)::pg_catalog.int4 FROM pg_catalog.pg_proc p
 WHERE p.pronamespace OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.regnamespace AND p.prosecdef AND p.proowner OPERATOR(pg_catalog.=) 'secretproxy_tables'::pg_catalog.regrole
   AND p.proname OPERATOR(pg_catalog.<>) ALL (ARRAY['forget_password', 'names_to_mask']::pg_catalog.name[]);
ROLLBACK;
