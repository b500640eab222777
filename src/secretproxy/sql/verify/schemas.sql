-- Verify secretproxy:schemas on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.has_schema_privilege('authenticated', 'encrypted_secrets', 'USAGE')::int;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.to_regnamespace('secrets_schema') IS NOT NULL)::int;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.to_regnamespace('jwt_public') IS NOT NULL)::int;
ROLLBACK;
