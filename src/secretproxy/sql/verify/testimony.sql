-- Verify secretproxy:testimony on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (secretproxy.backend_start() > 0)::int;
SELECT 1 / (relpersistence = 'u' OR current_setting('server_version_num')::int < 150000)::int
  FROM pg_class WHERE oid = 'secretproxy.session_start'::regclass;
SELECT 'secretproxy.planned_session()'::regprocedure;
SELECT 'secretproxy.masked(secretproxy.context,text)'::regprocedure;
SELECT 'secretproxy.testify(secretproxy.context,text,text,uuid,text[],text)'::regprocedure;
ROLLBACK;
