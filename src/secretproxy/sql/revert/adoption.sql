-- Revert secretproxy:adoption from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.adopted;
DELETE FROM secretproxy.changes WHERE change = 'adoption';
COMMIT;
