-- Deploy secretproxy:access_log to pg
-- requires: roles
-- Rows are only ever added: the writer may insert, the auditor may read, and a trigger says no to everybody else.
-- Retention drops whole partitions.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.access_log (
    id pg_catalog.uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    event pg_catalog.text NOT NULL,
    instance pg_catalog.uuid,
    seq bigint,
    prev_hash pg_catalog.bytea,
    row_hash pg_catalog.bytea,
    session_id pg_catalog.uuid,
    statement_no bigint,
    function pg_catalog.text,
    operation pg_catalog.text,
    owner_id pg_catalog.uuid,
    secret_names pg_catalog.text[],
    encoding pg_catalog.text,
    via pg_catalog.text[],
    protocol pg_catalog.text,
    fingerprint pg_catalog.text,
    db_user pg_catalog.text,
    role pg_catalog.text,
    accessed_by pg_catalog.uuid,
    database pg_catalog.text,
    application_name pg_catalog.text,
    client_addr pg_catalog.inet,
    client_port int,
    tls boolean,
    outcome pg_catalog.text,
    sqlstate pg_catalog.text,
    duration double precision,
    calls bigint,
    UNIQUE (instance, seq, at)
) PARTITION BY RANGE (at);
ALTER TABLE secretproxy.access_log OWNER TO secretproxy_owner;
-- Older versions checked these words with each row, some did not know of an access in one row, and each INSERT read the four constraints from
-- the catalog anew, a sixth of what a row cost the server. A word that the package does not have is a finding of `audit verify`.
DO $do$
DECLARE
    v_check pg_catalog.text;
BEGIN
    FOREACH v_check IN ARRAY ARRAY['access_log_event_check', 'access_log_operation_check', 'access_log_protocol_check', 'access_log_outcome_check'] LOOP
        -- Looked at first: ALTER TABLE waits for every reader and writer.
        IF EXISTS (SELECT FROM pg_catalog.pg_constraint c
             WHERE c.conrelid OPERATOR(pg_catalog.=) 'secretproxy.access_log'::pg_catalog.regclass AND c.conname OPERATOR(pg_catalog.=) v_check::pg_catalog.name)
        THEN
            EXECUTE pg_catalog.format('ALTER TABLE secretproxy.access_log DROP CONSTRAINT %I', v_check);
        END IF;
    END LOOP;
END
$do$;
CREATE INDEX IF NOT EXISTS access_log_at_idx ON secretproxy.access_log (at);
CREATE INDEX IF NOT EXISTS access_log_statement_idx ON secretproxy.access_log (session_id, statement_no);

COMMENT ON TABLE secretproxy.access_log IS 'Who called which encrypted_secrets function when, from where, and how it ended; never a value';
COMMENT ON COLUMN secretproxy.access_log.duration IS 'Seconds';
COMMENT ON COLUMN secretproxy.access_log.calls IS 'Executions of this call that the backend testified to; of an outcome that names no function, those of each attempt of its statement';
COMMENT ON COLUMN secretproxy.access_log.via IS 'Signatures of the functions on the call path; of a review, its filter: name and value in turn';
COMMENT ON COLUMN secretproxy.access_log.client_addr IS 'NULL for a Unix socket';

CREATE OR REPLACE FUNCTION secretproxy.access_log_is_append_only() RETURNS pg_catalog.trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501',
        MESSAGE = 'secretproxy.access_log is append-only: ' OPERATOR(pg_catalog.||) pg_catalog.lower(TG_OP) OPERATOR(pg_catalog.||) ' is not allowed',
        HINT = 'Old rows go away with their partition.';
END
$body$;
ALTER FUNCTION secretproxy.access_log_is_append_only() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.access_log_is_append_only() FROM PUBLIC;

CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON secretproxy.access_log
    FOR EACH ROW EXECUTE FUNCTION secretproxy.access_log_is_append_only();
CREATE OR REPLACE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.access_log
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only();
ALTER TABLE secretproxy.access_log ENABLE TRIGGER append_only, ENABLE TRIGGER append_only_truncate;

CREATE TABLE IF NOT EXISTS secretproxy.access_log_default PARTITION OF secretproxy.access_log DEFAULT;
ALTER TABLE secretproxy.access_log_default OWNER TO secretproxy_owner;
CREATE OR REPLACE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.access_log_default
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only();

-- A partition is made apart and then attached, so that a long review of the log and the journal do not wait for each other.
CREATE OR REPLACE FUNCTION secretproxy.access_log_partitions(months_ahead int DEFAULT 2) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '500ms'
SET client_min_messages = warning
AS $body$
DECLARE
    v_this timestamp := pg_catalog.date_trunc('month', pg_catalog.clock_timestamp() AT TIME ZONE 'UTC');
    v_from timestamp;
    v_name pg_catalog.text;
    v_made int := 0;
BEGIN
    IF months_ahead IS NULL OR months_ahead OPERATOR(pg_catalog.<) 0 OR months_ahead OPERATOR(pg_catalog.>) 120 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'months_ahead must be between 0 and 120';
    END IF;
    FOR i IN 0..months_ahead LOOP
        v_from := v_this OPERATOR(pg_catalog.+) pg_catalog.make_interval(months => i);
        v_name := 'access_log_' OPERATOR(pg_catalog.||) pg_catalog.to_char(v_from, 'YYYY_MM');
        CONTINUE WHEN pg_catalog.to_regclass('secretproxy.' OPERATOR(pg_catalog.||) v_name) IS NOT NULL;
        PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('secretproxy.access_log_partitions', 0));
        CONTINUE WHEN pg_catalog.to_regclass('secretproxy.' OPERATOR(pg_catalog.||) v_name) IS NOT NULL;
        BEGIN
            EXECUTE pg_catalog.format('CREATE TABLE secretproxy.%I (LIKE secretproxy.access_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
            EXECUTE pg_catalog.format('ALTER TABLE secretproxy.access_log ATTACH PARTITION secretproxy.%I FOR VALUES FROM (%L) TO (%L)',
                           v_name, v_from AT TIME ZONE 'UTC', (v_from OPERATOR(pg_catalog.+) interval '1 month') AT TIME ZONE 'UTC');
            EXECUTE pg_catalog.format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.%I
                            FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only()', v_name);
            v_made := v_made OPERATOR(pg_catalog.+) 1;
        EXCEPTION WHEN check_violation THEN
            NULL; -- rows of that month are in the default partition already; they stay there
        END;
    END LOOP;
    RETURN v_made;
END
$body$;
COMMENT ON FUNCTION secretproxy.access_log_partitions(int) IS 'Makes the monthly partitions that are missing; returns how many it made';
ALTER FUNCTION secretproxy.access_log_partitions(int) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.access_log_partitions(int) FROM PUBLIC;

REVOKE ALL ON secretproxy.access_log FROM PUBLIC, secretproxy_writer, secretproxy_auditor;
GRANT INSERT ON secretproxy.access_log TO secretproxy_writer;
GRANT EXECUTE ON FUNCTION secretproxy.access_log_partitions(int) TO secretproxy_writer;
GRANT SELECT ON secretproxy.access_log TO secretproxy_auditor;

DO $do$
BEGIN
    PERFORM secretproxy.access_log_partitions(2);
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('access_log', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
