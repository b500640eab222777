-- Verify secretproxy:adoption on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT kind, object, owner, definition, acl, extension FROM secretproxy.adopted WHERE false;
SELECT kind, object, grantee, privilege FROM secretproxy.kept_grants WHERE false;
ROLLBACK;
