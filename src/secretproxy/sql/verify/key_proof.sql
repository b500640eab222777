-- Verify secretproxy:key_proof on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 1)::int
  FROM secretproxy.key_proof(pg_catalog.decode(pg_catalog.repeat('00', 32), 'hex')) p WHERE p.signs;
ROLLBACK;
