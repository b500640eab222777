-- Verify secretproxy:testimony on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (secretproxy.backend_start() > 0)::int;
SELECT 'secretproxy.testify(secretproxy.context,text,text,uuid,text[],text)'::regprocedure;
ROLLBACK;
