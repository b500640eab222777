-- Verify secretproxy:testimony_key on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.>) 0)::int FROM secretproxy.testimony_key WHERE retired_at IS NULL;
ROLLBACK;
