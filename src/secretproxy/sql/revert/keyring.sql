-- Revert secretproxy:keyring from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.keyring;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'keyring';
COMMIT;
