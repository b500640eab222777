-- Verify secretproxy:testimony on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (secretproxy.backend_start() OPERATOR(pg_catalog.>) 0)::int;
SELECT 1 OPERATOR(pg_catalog./) (relpersistence OPERATOR(pg_catalog.=) 'u' OR pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.<) 150000)::int
  FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) 'secretproxy.session_start'::pg_catalog.regclass;
SELECT 'secretproxy.planned_session()'::pg_catalog.regprocedure;
SELECT 'secretproxy.masked(secretproxy.context,text)'::pg_catalog.regprocedure;
SELECT 'secretproxy.testify(secretproxy.context,text,text,uuid,text[],text)'::pg_catalog.regprocedure;
ROLLBACK;
