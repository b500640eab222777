-- Revert secretproxy:testimony from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.testify(text, text, uuid, text[], text);
DROP FUNCTION IF EXISTS secretproxy.token(text);
DROP FUNCTION IF EXISTS secretproxy.backend_start();
DROP TYPE IF EXISTS secretproxy.call_context;
DELETE FROM secretproxy.changes WHERE change = 'testimony';
COMMIT;
