-- Revert secretproxy:testimony from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.begin_call(text, text, uuid, text[], text);
DROP FUNCTION IF EXISTS secretproxy.log_direct(text, text, uuid, text[], text, text, uuid, text);
DROP FUNCTION IF EXISTS secretproxy.testify(secretproxy.context, text, text, uuid, text[], text);
DROP FUNCTION IF EXISTS secretproxy.token(text);
DROP FUNCTION IF EXISTS secretproxy.masked(secretproxy.context, text);
DROP FUNCTION IF EXISTS secretproxy.backend_start();
DROP FUNCTION IF EXISTS secretproxy.planned_session();
DROP FUNCTION IF EXISTS secretproxy.own_start(secretproxy.context);
DROP SEQUENCE IF EXISTS secretproxy.session_start;
DELETE FROM secretproxy.changes WHERE change = 'testimony';
COMMIT;
