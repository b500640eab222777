-- Deploy secretproxy:checkpoints to pg
-- requires: access_log
-- Holds signed checkpoints: how far the chain of an instance went. Rows are added and read like the log's, and never changed.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.checkpoints (
    instance pg_catalog.uuid NOT NULL,
    seq bigint NOT NULL,
    row_hash pg_catalog.bytea NOT NULL,
    at pg_catalog.timestamptz NOT NULL,
    signature pg_catalog.bytea NOT NULL,
    kind pg_catalog.text NOT NULL DEFAULT 'checkpoint',
    UNIQUE (instance, seq, at)
);
ALTER TABLE secretproxy.checkpoints OWNER TO secretproxy_owner;
ALTER TABLE secretproxy.checkpoints DROP CONSTRAINT IF EXISTS checkpoints_kind_check;
ALTER TABLE secretproxy.checkpoints ADD CONSTRAINT checkpoints_kind_check CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['checkpoint', 'end', 'retention', 'before']));
COMMENT ON TABLE secretproxy.checkpoints IS 'The row seq of an instance had the hash row_hash at that time; the signature is Ed25519. Kind end: the process ended with that row; kind retention: rows up to it were removed then, those after the row of kind before and of the same time, or else all; row 0: the beginning of the chain';
REVOKE ALL ON secretproxy.checkpoints FROM PUBLIC;
GRANT INSERT ON secretproxy.checkpoints TO secretproxy_writer;
GRANT SELECT ON secretproxy.checkpoints TO secretproxy_auditor;

CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON secretproxy.checkpoints
    FOR EACH ROW EXECUTE FUNCTION secretproxy.access_log_is_append_only();
CREATE OR REPLACE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only();
ALTER TABLE secretproxy.checkpoints ENABLE TRIGGER append_only, ENABLE TRIGGER append_only_truncate;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('checkpoints', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
