-- Verify secretproxy:checkpoints on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT instance, seq, row_hash, at, signature, kind FROM secretproxy.checkpoints WHERE false;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 2)::int FROM pg_catalog.pg_trigger
 WHERE tgrelid OPERATOR(pg_catalog.=) 'secretproxy.checkpoints'::pg_catalog.regclass AND tgfoid OPERATOR(pg_catalog.=) 'secretproxy.access_log_is_append_only()'::pg_catalog.regprocedure AND tgenabled OPERATOR(pg_catalog.=) 'O';
ROLLBACK;
