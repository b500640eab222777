-- Verify secretproxy:kept_grants on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT kind, object, grantee, privilege FROM secretproxy.kept_grants WHERE false;
SELECT 'secretproxy.keep_owner_rights(name)'::pg_catalog.regprocedure;
ROLLBACK;
