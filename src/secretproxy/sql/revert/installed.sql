-- Revert secretproxy:installed from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.record_facts();
DROP FUNCTION IF EXISTS secretproxy.facts();
DROP TABLE secretproxy.installed;
DROP TABLE IF EXISTS secretproxy.accepted;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'installed';
COMMIT;
