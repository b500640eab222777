-- Deploy secretproxy:testimony_key to pg
-- requires: crypto
-- Keys that the functions sign their testimony with and check session tokens by: the newest that is active signs, every one that is
-- not retired is accepted, so that a new key can be known to all before anybody uses it.
-- `secretproxy install` stores the proxy's here. Version 0, drawn here, is known to nobody outside this table: until
-- the proxy's key is stored, every call counts as direct.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.testimony_key (
    version int PRIMARY KEY CHECK (version OPERATOR(pg_catalog.>=) 0),
    key pg_catalog.bytea NOT NULL CHECK (pg_catalog.octet_length(key) OPERATOR(pg_catalog.=) 32),
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    retired_at pg_catalog.timestamptz,
    active boolean NOT NULL DEFAULT true,
    inner_pad pg_catalog.bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 54)) STORED,
    outer_pad pg_catalog.bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 92)) STORED
);
ALTER TABLE secretproxy.testimony_key ADD COLUMN IF NOT EXISTS active boolean NOT NULL DEFAULT true;
ALTER TABLE secretproxy.testimony_key OWNER TO secretproxy_keys;
REVOKE ALL ON secretproxy.testimony_key FROM PUBLIC;
COMMENT ON TABLE secretproxy.testimony_key IS 'Keys shared with the proxy (testimony.key_file): testimony and session tokens';

INSERT INTO secretproxy.testimony_key (version, key)
SELECT 0, secretproxy.random_key()
WHERE NOT EXISTS (SELECT FROM secretproxy.testimony_key WHERE retired_at IS NULL)
ON CONFLICT DO NOTHING;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('testimony_key', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
