-- Revert secretproxy:access_log from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- A log that has rows is evidence: it stays, for the auditors to read, until somebody drops it by hand.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM secretproxy.access_log) THEN
        DROP TABLE secretproxy.access_log;
        DROP FUNCTION secretproxy.access_log_is_append_only();
    ELSE
        RAISE WARNING 'secretproxy.access_log has rows and is kept';
    END IF;
END
$do$;
DROP FUNCTION IF EXISTS secretproxy.access_log_partitions(int);
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'access_log';
COMMIT;
