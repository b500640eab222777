-- Revert secretproxy:roles from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- Roles belong to the cluster and may be used by other databases: they stay.
SELECT 1;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'roles';
COMMIT;
