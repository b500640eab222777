-- Deploy secretproxy:keyring to pg
-- requires: crypto
-- Keys that the keys of values are derived from: the newest that is not retired seals, every one opens what it sealed.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.keyring (
    version int PRIMARY KEY CHECK (version OPERATOR(pg_catalog.>) 0),
    key pg_catalog.bytea NOT NULL CHECK (pg_catalog.octet_length(key) OPERATOR(pg_catalog.=) 32),
    created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    retired_at pg_catalog.timestamptz,
    inner_pad pg_catalog.bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 54)) STORED,
    outer_pad pg_catalog.bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 92)) STORED,
    -- The first bytes of a value sealed with this version. 0xFF begins neither text nor an OpenPGP message of format 1.
    prefix pg_catalog.bytea NOT NULL GENERATED ALWAYS AS (pg_catalog.decode('ff535032', 'hex') OPERATOR(pg_catalog.||) pg_catalog.int4send(version)) STORED
);
ALTER TABLE secretproxy.keyring OWNER TO secretproxy_keys;
REVOKE ALL ON secretproxy.keyring FROM PUBLIC;
COMMENT ON TABLE secretproxy.keyring IS 'Keys of format-2 values, by version';

INSERT INTO secretproxy.keyring (version, key)
SELECT 1, secretproxy.random_key()
WHERE NOT EXISTS (SELECT FROM secretproxy.keyring)
ON CONFLICT DO NOTHING;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('keyring', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
