-- Verify secretproxy:changes on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT change, digest, deployed_at, deployed_by FROM secretproxy.changes WHERE false;
ROLLBACK;
