-- Revert secretproxy:context from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TRIGGER refresh_context ON secretproxy.settings;
DROP TRIGGER refresh_context ON secretproxy.keyring;
DROP TRIGGER refresh_context ON secretproxy.testimony_key;
DROP FUNCTION secretproxy.refresh_context();
DROP TABLE secretproxy.context;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'context';
COMMIT;
