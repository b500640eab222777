-- Revert secretproxy:testimony from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.begin_call(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.log_direct(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.testify(secretproxy.context, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.token(pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.masked(secretproxy.context, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.backend_start();
DROP FUNCTION IF EXISTS secretproxy.planned_session();
DROP FUNCTION IF EXISTS secretproxy.own_start(secretproxy.context);
DROP FUNCTION IF EXISTS secretproxy.refuse_process(secretproxy.context, pg_catalog.text);
DROP SEQUENCE IF EXISTS secretproxy.session_start;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'testimony';
COMMIT;
