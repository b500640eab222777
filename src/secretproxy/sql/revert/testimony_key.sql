-- Revert secretproxy:testimony_key from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.testimony_key;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'testimony_key';
COMMIT;
