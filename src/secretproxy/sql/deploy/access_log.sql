-- Deploy secretproxy:access_log to pg
-- requires: roles
-- Rows are only ever added: the writer may insert, the auditor may read, and a trigger says no to everybody else.
-- Retention drops whole partitions.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.access_log (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL CHECK (event IN ('attempt', 'call', 'outcome', 'definition', 'table', 'refusal', 'forgery', 'direct')),
    instance uuid,
    seq bigint,
    prev_hash bytea,
    row_hash bytea,
    session_id uuid,
    statement_no bigint,
    function text,
    operation text CHECK (operation IN ('read', 'write', 'verify', 'delete')),
    owner_id uuid,
    secret_names text[],
    encoding text,
    via text[],
    protocol text CHECK (protocol IN ('simple', 'extended', 'fastpath')),
    fingerprint text,
    db_user text,
    role text,
    accessed_by uuid,
    database text,
    application_name text,
    client_addr inet,
    client_port int,
    tls boolean,
    outcome text CHECK (outcome IN ('ok', 'error', 'cancelled', 'lost', 'refused')),
    sqlstate text,
    duration double precision,
    calls bigint,
    UNIQUE (instance, seq, at)
) PARTITION BY RANGE (at);
ALTER TABLE secretproxy.access_log OWNER TO secretproxy_owner;
CREATE INDEX IF NOT EXISTS access_log_at_idx ON secretproxy.access_log (at);
CREATE INDEX IF NOT EXISTS access_log_statement_idx ON secretproxy.access_log (session_id, statement_no);

COMMENT ON TABLE secretproxy.access_log IS 'Who called which encrypted_secrets function when, from where, and how it ended; never a value';
COMMENT ON COLUMN secretproxy.access_log.duration IS 'Seconds';
COMMENT ON COLUMN secretproxy.access_log.calls IS 'Executions of this call that the backend testified to; of an outcome that names no function, those of each attempt of its statement';
COMMENT ON COLUMN secretproxy.access_log.via IS 'Signatures of the functions on the call path';
COMMENT ON COLUMN secretproxy.access_log.client_addr IS 'NULL for a Unix socket';

CREATE OR REPLACE FUNCTION secretproxy.access_log_is_append_only() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501',
        MESSAGE = 'secretproxy.access_log is append-only: ' || lower(TG_OP) || ' is not allowed',
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
    v_this timestamp := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
    v_from timestamp;
    v_name text;
    v_made int := 0;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'months_ahead must be between 0 and 120';
    END IF;
    FOR i IN 0..months_ahead LOOP
        v_from := v_this + make_interval(months => i);
        v_name := 'access_log_' || to_char(v_from, 'YYYY_MM');
        CONTINUE WHEN to_regclass('secretproxy.' || v_name) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(hashtextextended('secretproxy.access_log_partitions', 0));
        CONTINUE WHEN to_regclass('secretproxy.' || v_name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE secretproxy.%I (LIKE secretproxy.access_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
            EXECUTE format('ALTER TABLE secretproxy.access_log ATTACH PARTITION secretproxy.%I FOR VALUES FROM (%L) TO (%L)',
                           v_name, v_from AT TIME ZONE 'UTC', (v_from + interval '1 month') AT TIME ZONE 'UTC');
            EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.%I
                            FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only()', v_name);
            v_made := v_made + 1;
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

INSERT INTO secretproxy.changes (change, digest)
VALUES ('access_log', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
