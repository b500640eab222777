-- Revert secretproxy:kept_sums from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.keep_sums(bigint, bigint), secretproxy.drop_sums(pg_catalog.timestamptz),
    secretproxy.add_to_sums(pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.uuid[], pg_catalog.timestamptz[]);
DROP TABLE IF EXISTS secretproxy.sums, secretproxy.sums_users, secretproxy.sums_hours, secretproxy.sums_secrets, secretproxy.sums_open;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'kept_sums';
COMMIT;
