-- Revert secretproxy:changes from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.changes;
DROP FUNCTION IF EXISTS secretproxy.drop_default_grants();
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.regnamespace) THEN
        DROP SCHEMA secretproxy;
    END IF;
END
$do$;
COMMIT;
