-- Revert secretproxy:changes from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.changes;
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'secretproxy'::regnamespace) THEN
        DROP SCHEMA secretproxy;
    END IF;
END
$do$;
COMMIT;
