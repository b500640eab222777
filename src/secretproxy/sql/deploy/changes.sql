-- Deploy secretproxy:changes to pg
-- What is deployed, whichever tool did it: every deploy script records itself here with its own digest.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS secretproxy;
COMMENT ON SCHEMA secretproxy IS 'secretproxy: access log, key ring, settings';

CREATE TABLE IF NOT EXISTS secretproxy.changes (
    change pg_catalog.text PRIMARY KEY,
    digest pg_catalog.text NOT NULL,
    deployed_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    deployed_by pg_catalog.name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE secretproxy.changes IS 'The changes of the sqitch project that are deployed, with the digest of each deploy script';

INSERT INTO secretproxy.changes (change, digest)
VALUES ('changes', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
