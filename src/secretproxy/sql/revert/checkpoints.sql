-- Revert secretproxy:checkpoints from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.checkpoints;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'checkpoints';
COMMIT;
