-- Verify secretproxy:checkpoints on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT instance, seq, row_hash, at, signature, kind FROM secretproxy.checkpoints WHERE false;
SELECT 1 / (count(*) = 2)::int FROM pg_trigger
 WHERE tgrelid = 'secretproxy.checkpoints'::regclass AND tgfoid = 'secretproxy.access_log_is_append_only()'::regprocedure AND tgenabled = 'O';
ROLLBACK;
