-- An installation of the first version of this project: its deploy scripts in the order of its plan, and what its installer recorded.

-- Deploy secretproxy:changes to pg
-- What is deployed, whichever tool did it: every deploy script records itself here with its own digest.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS secretproxy;
COMMENT ON SCHEMA secretproxy IS 'secretproxy: access log, key ring, settings';

CREATE TABLE IF NOT EXISTS secretproxy.changes (
    change text PRIMARY KEY,
    digest text NOT NULL,
    deployed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deployed_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE secretproxy.changes IS 'The changes of the sqitch project that are deployed, with the digest of each deploy script';

INSERT INTO secretproxy.changes (change, digest)
VALUES ('changes', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = '8ae9edfeaacc65ac119b9f26782dbb3ff6b5e6744638753bfa8af332d14d80a8' WHERE change = 'changes';

-- Deploy secretproxy:roles to pg
-- requires: changes
-- Roles belong to the cluster: another database, or the application itself, may have made them already.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $do$
DECLARE
    v_role text;
    v_new text[] := '{}';
BEGIN
    FOREACH v_role IN ARRAY ARRAY['secretproxy_owner', 'secretproxy_writer', 'secretproxy_auditor',
                                  'anonymous', 'authenticated', 'administrator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
                v_new := v_new || v_role;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- an installer in another database of this cluster was faster
            END;
        END IF;
    END LOOP;
    IF 'administrator' = ANY (v_new) THEN
        GRANT anonymous, authenticated TO administrator;
    END IF;
    -- The start time of a session that another role opened is hidden from everybody else, and testimony is bound to it.
    IF NOT pg_has_role('secretproxy_owner', 'pg_read_all_stats', 'USAGE') THEN
        GRANT pg_read_all_stats TO secretproxy_owner;
    END IF;
END
$do$;

ALTER ROLE secretproxy_owner NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;

ALTER SCHEMA secretproxy OWNER TO secretproxy_owner;
REVOKE ALL ON SCHEMA secretproxy FROM PUBLIC;
GRANT USAGE ON SCHEMA secretproxy TO PUBLIC;
ALTER TABLE secretproxy.changes OWNER TO secretproxy_owner;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('roles', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'bc553bf7bbb05eace88499e9bee7ad7aaa6005528053bbbdf690a9e493d820ac' WHERE change = 'roles';

-- Deploy secretproxy:adoption to pg
-- requires: roles
-- Remembers what an existing install of the original modules looks like before it is replaced in place,
-- so that a revert can put it back. What is ours already is not remembered.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.adopted (
    kind text NOT NULL CHECK (kind IN ('function', 'table', 'schema')),
    object text NOT NULL,
    owner name NOT NULL,
    definition text,
    acl aclitem[],
    extension name,
    adopted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, object)
);
ALTER TABLE secretproxy.adopted OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.adopted IS 'What stood here before install: definitions, owners and grants that a revert puts back';

INSERT INTO secretproxy.adopted (kind, object, owner, acl, extension)
SELECT 'schema', quote_ident(n.nspname), pg_get_userbyid(n.nspowner), n.nspacl,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
FROM pg_namespace n
WHERE n.nspname IN ('encrypted_secrets', 'secrets_schema', 'jwt_public')
  AND n.nspowner <> 'secretproxy_owner'::regrole
  AND NOT EXISTS (SELECT FROM secretproxy.changes WHERE change = 'manifest')
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.adopted (kind, object, owner, acl, extension)
SELECT 'table', c.oid::regclass::text, pg_get_userbyid(c.relowner), c.relacl,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
FROM pg_class c
WHERE c.oid = to_regclass('secrets_schema.secrets_table')
  AND c.relowner <> 'secretproxy_owner'::regrole
  AND NOT EXISTS (SELECT FROM secretproxy.changes WHERE change = 'manifest')
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.adopted (kind, object, owner, definition, acl, extension)
SELECT 'function', p.oid::regprocedure::text, pg_get_userbyid(p.proowner), pg_get_functiondef(p.oid), p.proacl,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.proowner <> 'secretproxy_owner'::regrole
  AND p.prokind = 'f'
  AND ((n.nspname = 'encrypted_secrets'
        AND p.proname IN ('secrets_upsert', 'secrets_getter', 'secrets_verify', 'secrets_delete', 'secrets_table_upsert',
                          'encrypt_field_bytea_to_text', 'encrypt_field_crypt', 'encrypt_field_crypt_verify',
                          'encrypt_field_pgp', 'encrypt_field_pgp_get', 'encrypt_field_pgp_getter', 'encrypt_field_set'))
       OR (n.nspname = 'secrets_schema' AND p.proname = 'tg_hash_secrets')
       OR (n.nspname = 'jwt_public' AND p.proname = 'current_user_id' AND p.pronargs = 0))
  AND NOT EXISTS (SELECT FROM secretproxy.changes WHERE change = 'manifest')
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('adoption', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = '304410b0d6f411fef062bcb722d65eb9dc0aa2a6db5be6451a218a305c022e22' WHERE change = 'adoption';

-- Deploy secretproxy:schemas to pg
-- requires: adoption

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS encrypted_secrets;
CREATE SCHEMA IF NOT EXISTS secrets_schema;
CREATE SCHEMA IF NOT EXISTS jwt_public;

ALTER SCHEMA encrypted_secrets OWNER TO secretproxy_owner;
ALTER SCHEMA secrets_schema OWNER TO secretproxy_owner;

-- jwt_public may hold more than our function: it keeps its owner, and ours only if nobody had made it.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM secretproxy.adopted WHERE kind = 'schema' AND object = 'jwt_public') THEN
        ALTER SCHEMA jwt_public OWNER TO secretproxy_owner;
    END IF;
END
$do$;

GRANT USAGE ON SCHEMA encrypted_secrets TO authenticated;
GRANT USAGE ON SCHEMA jwt_public TO anonymous, authenticated;
GRANT USAGE ON SCHEMA jwt_public TO secretproxy_owner;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('schemas', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'a18eda728d6ca27910e0bf36f3cd265e1fa4f458c163cfc132cbf335940f371f' WHERE change = 'schemas';

-- Deploy secretproxy:settings to pg
-- requires: roles

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.settings (
    direct_calls text NOT NULL DEFAULT 'log' CHECK (direct_calls IN ('log', 'refuse')),
    owner_check text NOT NULL DEFAULT 'off' CHECK (owner_check IN ('off', 'jwt')),
    crypt_cost int NOT NULL DEFAULT 8 CHECK (crypt_cost BETWEEN 4 AND 31),
    keyring text NOT NULL DEFAULT 'internal' CHECK (keyring = 'internal'),
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
ALTER TABLE secretproxy.settings OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.settings IS 'One row, read by the encrypted_secrets functions, changed with UPDATE';
COMMENT ON COLUMN secretproxy.settings.direct_calls IS 'A call that did not come through the proxy: log it, or refuse it';
COMMENT ON COLUMN secretproxy.settings.owner_check IS 'jwt: a member of authenticated may only name jwt_public.current_user_id() as owner';
COMMENT ON COLUMN secretproxy.settings.crypt_cost IS 'bcrypt cost of passwords stored from now on';
COMMENT ON COLUMN secretproxy.settings.keyring IS 'Where the keys of the values are kept: internal, in secretproxy.keyring';

INSERT INTO secretproxy.settings DEFAULT VALUES ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('settings', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'c864715d6f3a89e0c5113356f893fc2fcf50b18c5414a412e5f22257a389dd65' WHERE change = 'settings';

-- Deploy secretproxy:crypto to pg
-- requires: roles
-- The only place that names pgcrypto. The bodies are stored parsed, bound to pgcrypto's functions by OID: pgcrypto may
-- live in any schema and move, and no search_path can put other functions in their place. All are small enough for the
-- planner to inline them.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgcrypto') THEN
        IF to_regnamespace('public') IS NOT NULL THEN
            CREATE EXTENSION pgcrypto SCHEMA public;
        ELSE
            CREATE EXTENSION pgcrypto SCHEMA secretproxy;
        END IF;
    END IF;
    PERFORM set_config('search_path', quote_ident(n.nspname) || ', pg_catalog, pg_temp', true)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgcrypto';
END
$do$;

-- Format 2: the key is already random, so nothing is stretched (s2k-mode=0); the integrity code stays on.
CREATE OR REPLACE FUNCTION secretproxy.pgp_encrypt(data bytea, key text) RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pgp_sym_encrypt_bytea(data, key, 's2k-mode=0, cipher-algo=aes256, compress-algo=0'::text);

CREATE OR REPLACE FUNCTION secretproxy.pgp_decrypt(data bytea, key text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pgp_sym_decrypt_bytea(data, key);

-- Format 1, as the original modules wrote it.
CREATE OR REPLACE FUNCTION secretproxy.pgp_encrypt_1(data bytea, key text) RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pgp_sym_encrypt(pg_catalog.encode(data, 'hex'::text), key, 'compress-algo=1, cipher-algo=aes256'::text);

CREATE OR REPLACE FUNCTION secretproxy.pgp_decrypt_1(data bytea, key text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.decode(pgp_sym_decrypt(data, key), 'hex'::text);

CREATE OR REPLACE FUNCTION secretproxy.bcrypt(password text, salt text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN crypt(password, salt);

CREATE OR REPLACE FUNCTION secretproxy.bcrypt_salt(cost int) RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_salt('bf'::text, cost);

CREATE OR REPLACE FUNCTION secretproxy.random_key() RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_random_bytes(32);

SET LOCAL search_path = pg_catalog, pg_temp;

-- HMAC-SHA256 in two halves: the key's padded blocks are computed once, when the key is stored; core sha256() does the rest.
CREATE OR REPLACE FUNCTION secretproxy.hmac_pad(key bytea, filler int) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_pad bytea := key || decode(repeat('00', 64 - octet_length(key)), 'hex');
BEGIN
    FOR i IN 0..63 LOOP
        v_pad := set_byte(v_pad, i, get_byte(v_pad, i) # filler);
    END LOOP;
    RETURN v_pad;
END
$body$;

CREATE OR REPLACE FUNCTION secretproxy.hmac(inner_pad bytea, outer_pad bytea, message bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(sha256(outer_pad || sha256(inner_pad || message)), 'hex'::text);

-- Text as the bytes that are hashed and encrypted. A database in SQL_ASCII knows no characters, only bytes.
CREATE OR REPLACE FUNCTION secretproxy.to_bytes(value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_to(value, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII'::name ELSE 'UTF8'::name END);

CREATE OR REPLACE FUNCTION secretproxy.to_text(value bytea) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_from(value, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII'::name ELSE 'UTF8'::name END);

DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'pgp_encrypt(bytea,text)', 'pgp_decrypt(bytea,text)', 'pgp_encrypt_1(bytea,text)', 'pgp_decrypt_1(bytea,text)',
        'bcrypt(text,text)', 'bcrypt_salt(int)', 'random_key()', 'hmac_pad(bytea,int)', 'hmac(bytea,bytea,bytea)',
        'to_bytes(text)', 'to_text(bytea)'] LOOP
        EXECUTE format('ALTER FUNCTION secretproxy.%s OWNER TO secretproxy_owner', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION secretproxy.%s FROM PUBLIC', v_function);
    END LOOP;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('crypto', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'a0ee8acf10a08ecd5637287b5429f0608ec7756ddf595027554824089d82bdf8' WHERE change = 'crypto';

-- Deploy secretproxy:testimony_key to pg
-- requires: crypto
-- Keys that the functions sign their testimony with and check session tokens by: the newest that is not retired signs.
-- `secretproxy install` stores the proxy's here. Version 0, drawn here, is known to nobody outside this table: until
-- the proxy's key is stored, every call counts as direct.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.testimony_key (
    version int PRIMARY KEY CHECK (version >= 0),
    key bytea NOT NULL CHECK (octet_length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at timestamptz,
    inner_pad bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 54)) STORED,
    outer_pad bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 92)) STORED
);
ALTER TABLE secretproxy.testimony_key OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.testimony_key IS 'Keys shared with the proxy (testimony.key_file): testimony and session tokens';

INSERT INTO secretproxy.testimony_key (version, key)
SELECT 0, secretproxy.random_key()
WHERE NOT EXISTS (SELECT FROM secretproxy.testimony_key WHERE retired_at IS NULL)
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('testimony_key', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'b9a9ab74a4c87d32e073d4fd4be556ef9b5a056930cc2cbe4a2942a3a094ac14' WHERE change = 'testimony_key';

-- Deploy secretproxy:keyring to pg
-- requires: crypto
-- Keys that the keys of values are derived from: the newest that is not retired seals, every one opens what it sealed.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.keyring (
    version int PRIMARY KEY CHECK (version > 0),
    key bytea NOT NULL CHECK (octet_length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at timestamptz,
    inner_pad bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 54)) STORED,
    outer_pad bytea NOT NULL GENERATED ALWAYS AS (secretproxy.hmac_pad(key, 92)) STORED,
    -- What a value sealed with this version begins with. 0xFF begins neither text nor an OpenPGP message of format 1.
    prefix bytea NOT NULL GENERATED ALWAYS AS (decode('ff535032', 'hex') || int4send(version)) STORED
);
ALTER TABLE secretproxy.keyring OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.keyring IS 'Keys of format-2 values, by version';

INSERT INTO secretproxy.keyring (version, key)
SELECT 1, secretproxy.random_key()
WHERE NOT EXISTS (SELECT FROM secretproxy.keyring)
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('keyring', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = '1a456d274806b75d38ac2954ba877096ebe4ee3dc4a0ff74985cdf345184af1b' WHERE change = 'keyring';

-- Deploy secretproxy:jwt_public to pg
-- requires: schemas
-- Never an error and never a notice: policies and defaults call it for every row. Written so that the planner inlines it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION jwt_public.current_user_id() RETURNS uuid
LANGUAGE sql STABLE LEAKPROOF PARALLEL SAFE
AS $body$
    SELECT CASE
        WHEN pg_catalog.current_setting('jwt.claims.user_id', true) OPERATOR(pg_catalog.~)
             '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$'
        THEN pg_catalog.current_setting('jwt.claims.user_id', true)::pg_catalog.uuid
    END
$body$;
COMMENT ON FUNCTION jwt_public.current_user_id() IS 'The claim jwt.claims.user_id; NULL where it is unset or malformed';

ALTER FUNCTION jwt_public.current_user_id() OWNER TO secretproxy_owner;
GRANT EXECUTE ON FUNCTION jwt_public.current_user_id() TO anonymous, authenticated, secretproxy_owner;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('jwt_public', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'f3540f24173adc16015324f0b598182dda6e2e8c5ead6247bae63870c2173628' WHERE change = 'jwt_public';

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
COMMENT ON COLUMN secretproxy.access_log.calls IS 'Executions that the backend testified to in this statement';
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

CREATE TABLE IF NOT EXISTS secretproxy.access_log_default PARTITION OF secretproxy.access_log DEFAULT;
ALTER TABLE secretproxy.access_log_default OWNER TO secretproxy_owner;
CREATE OR REPLACE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.access_log_default
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only();

-- A partition is made apart and then attached, so that a long review of the log and the journal do not wait for each other.
CREATE OR REPLACE FUNCTION secretproxy.access_log_partitions(months_ahead int DEFAULT 2) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '10s'
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

UPDATE secretproxy.changes SET digest = '7723f1a63296378bcb80477d9da2e0f076e21a0b427131a6ef1d96a8ed1d1d12' WHERE change = 'access_log';

-- Deploy secretproxy:access_log_views to pg
-- requires: access_log
-- The log for people: one row a secret access, attempt, call and outcome joined.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE VIEW secretproxy.secret_access AS
SELECT a.at,
       a.db_user,
       coalesce(a.role, o.role) AS role,
       coalesce(a.accessed_by, o.accessed_by) AS accessed_by,
       a.operation,
       a.function,
       a.owner_id,
       a.secret_names,
       CASE WHEN a.event = 'direct' THEN 'ok' ELSE coalesce(o.outcome, a.outcome, 'unknown') END AS outcome,
       coalesce(o.sqlstate, a.sqlstate) AS sqlstate,
       o.calls,
       a.client_addr,
       a.client_port,
       a.application_name,
       a.database,
       a.encoding,
       a.via,
       a.event AS how,
       o.duration,
       a.session_id,
       a.statement_no,
       a.protocol,
       a.fingerprint,
       a.id
  FROM secretproxy.access_log a
  LEFT JOIN LATERAL (
        SELECT * FROM secretproxy.access_log o
         WHERE o.session_id = a.session_id AND o.statement_no = a.statement_no AND o.event = 'outcome'
         ORDER BY o.at DESC, o.seq DESC LIMIT 1
       ) o ON true
 WHERE a.event IN ('attempt', 'call', 'direct', 'refusal')
   -- An attempt whose owner or name the text did not show gives way to the calls that testimony showed.
   AND NOT (a.event = 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL) AND EXISTS (
        SELECT FROM secretproxy.access_log c
         WHERE c.session_id = a.session_id AND c.statement_no = a.statement_no AND c.event = 'call'
           AND split_part(c.function, '(', 1) = split_part(a.function, '(', 1)))
 ORDER BY a.at, a.seq;
COMMENT ON VIEW secretproxy.secret_access IS 'Who used which secret when, from where, and did it work: one row a secret access';
COMMENT ON COLUMN secretproxy.secret_access.how IS 'attempt: the statement named it; call: only the backend''s testimony showed it; direct: it came by no proxy; refusal: the log could not be written';

CREATE OR REPLACE VIEW secretproxy.secret_access_log AS
SELECT s.id, s.owner_id, n.secret_name, s.at AS accessed_at, s.accessed_by
  FROM secretproxy.secret_access s
  LEFT JOIN LATERAL unnest(s.secret_names) AS n (secret_name) ON true;
COMMENT ON VIEW secretproxy.secret_access_log IS 'The short form: one row for each secret that was accessed';

ALTER VIEW secretproxy.secret_access OWNER TO secretproxy_owner;
ALTER VIEW secretproxy.secret_access_log OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.secret_access, secretproxy.secret_access_log FROM PUBLIC;
GRANT SELECT ON secretproxy.secret_access, secretproxy.secret_access_log TO secretproxy_auditor;

-- Also by its bare name, where nobody has a relation of that name.
DO $do$
BEGIN
    IF to_regnamespace('public') IS NOT NULL AND (
        to_regclass('public.secret_access_log') IS NULL
        OR pg_get_userbyid((SELECT relowner FROM pg_class WHERE oid = to_regclass('public.secret_access_log'))) = 'secretproxy_owner')
    THEN
        CREATE OR REPLACE VIEW public.secret_access_log AS
            SELECT id, owner_id, secret_name, accessed_at, accessed_by FROM secretproxy.secret_access_log;
        ALTER VIEW public.secret_access_log OWNER TO secretproxy_owner;
        REVOKE ALL ON public.secret_access_log FROM PUBLIC;
        GRANT SELECT ON public.secret_access_log TO secretproxy_auditor;
    END IF;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('access_log_views', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'd93be6a6414a61f9116ccb2272b1ce0f2363afafff11fa42799fed637035abdd' WHERE change = 'access_log_views';

-- Deploy secretproxy:testimony to pg
-- requires: testimony_key
-- requires: keyring
-- requires: settings
-- requires: jwt_public
-- requires: access_log
-- What every API function does first: it tells the proxy that it runs, for whom and for which secret, signed; it finds out whether
-- the session is proxied; it gives back the keys it will need, all from one look-up.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION secretproxy.backend_start() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid())
$body$;
COMMENT ON FUNCTION secretproxy.backend_start() IS 'When this backend process started, in microseconds since the Unix epoch';
ALTER FUNCTION secretproxy.backend_start() OWNER TO secretproxy_owner;
GRANT EXECUTE ON FUNCTION secretproxy.backend_start() TO PUBLIC;

-- Text as one ASCII token: hexadecimal, or `-` for NULL.
CREATE OR REPLACE FUNCTION secretproxy.token(value text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(encode(secretproxy.to_bytes(value), 'hex'::text), '-'::text);
ALTER FUNCTION secretproxy.token(text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.token(text) FROM PUBLIC;

DO $do$
BEGIN
    IF to_regtype('secretproxy.call_context') IS NULL THEN
        CREATE TYPE secretproxy.call_context AS (
            ring_version int, ring_inner bytea, ring_outer bytea, ring_prefix bytea, crypt_cost int
        );
        ALTER TYPE secretproxy.call_context OWNER TO secretproxy_owner;
    END IF;
END
$do$;

CREATE OR REPLACE FUNCTION secretproxy.testify(
    function_signature text, function_operation text, owner uuid, names text[], field_encoding text
) RETURNS secretproxy.call_context
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    k record;
    v_context secretproxy.call_context;
    v_pid int := pg_backend_pid();
    v_role text := nullif(current_setting('role'), 'none');
    v_token text := current_setting('secretproxy.session', true);
    v_user uuid;
    v_start bigint;
    v_proxied boolean := false;
    v_names text;
    v_message text;
BEGIN
    SELECT t.version, t.inner_pad, t.outer_pad, s.direct_calls, s.owner_check, s.crypt_cost,
           r.version AS ring_version, r.inner_pad AS ring_inner, r.outer_pad AS ring_outer, r.prefix AS ring_prefix,
           (extract(epoch FROM a.backend_start) * 1000000)::bigint AS started
      INTO k
      FROM (SELECT * FROM secretproxy.testimony_key WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1) t,
           secretproxy.settings s,
           (SELECT * FROM secretproxy.keyring WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1) r,
           pg_stat_get_activity(v_pid) a;
    v_start := k.started;
    v_user := jwt_public.current_user_id();

    IF v_token LIKE '1.%.%' THEN
        IF v_token = '1.' || k.version || '.'
           || secretproxy.hmac(k.inner_pad, k.outer_pad, convert_to('SPXT1 ' || v_pid || ' ' || v_start, 'SQL_ASCII')) THEN
            v_proxied := true;
        ELSE
            v_proxied := EXISTS (
                SELECT FROM secretproxy.testimony_key o
                WHERE o.retired_at IS NULL AND v_token = '1.' || o.version || '.'
                  || secretproxy.hmac(o.inner_pad, o.outer_pad, convert_to('SPXT1 ' || v_pid || ' ' || v_start, 'SQL_ASCII')));
        END IF;
    END IF;

    v_names := CASE
        WHEN names IS NULL THEN '-'
        WHEN cardinality(names) = 0 THEN '='
        WHEN cardinality(names) = 1 THEN CASE names[1] WHEN '' THEN '_' ELSE coalesce(encode(secretproxy.to_bytes(names[1]), 'hex'), '~') END
        ELSE (SELECT string_agg(CASE WHEN n IS NULL THEN '~' WHEN n = '' THEN '_' ELSE encode(secretproxy.to_bytes(n), 'hex') END, ',' ORDER BY i)
                FROM unnest(names) WITH ORDINALITY u(n, i))
    END;
    v_message := 'SPX1 ' || k.version || ' ' || v_pid || ' ' || v_start
        || ' ' || (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        || ' ' || function_signature
        || ' ' || coalesce(owner::text, '-')
        || ' ' || v_names
        || ' ' || secretproxy.token(field_encoding)
        || ' ' || secretproxy.token(session_user::text)
        || ' ' || secretproxy.token(v_role)
        || ' ' || coalesce(v_user::text, '-')
        || CASE WHEN v_proxied THEN ' p -' ELSE ' d -' END;
    RAISE INFO USING ERRCODE = 'SPX01',
        MESSAGE = v_message || ' ' || secretproxy.hmac(k.inner_pad, k.outer_pad, convert_to(v_message, 'SQL_ASCII'));

    IF NOT v_proxied THEN
        IF k.direct_calls = 'refuse' THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = 'calls of encrypted_secrets functions must come through secretproxy',
                HINT = 'Point the DSN at secretproxy, or set direct_calls of secretproxy.settings to log.';
        END IF;
        -- Where nothing can be written (a read-only transaction, a standby) the call is not made to fail for its log row.
        IF current_setting('transaction_read_only') = 'off' THEN
            INSERT INTO secretproxy.access_log
                (event, function, operation, owner_id, secret_names, encoding, db_user, role, accessed_by, database,
                 application_name, client_addr, client_port)
            VALUES
                ('direct', function_signature, function_operation, owner, names,
                 CASE WHEN field_encoding IN ('pgp', 'crypt', 'none') THEN field_encoding END,
                 session_user, v_role, v_user, current_database(),
                 nullif(current_setting('application_name'), ''), inet_client_addr(), inet_client_port());
        END IF;
    END IF;

    IF k.owner_check = 'jwt' AND coalesce(v_role, session_user) = 'authenticated' AND owner IS DISTINCT FROM v_user THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = 'this role may only use secrets of jwt_public.current_user_id()',
            HINT = 'See owner_check of secretproxy.settings.';
    END IF;

    v_context.ring_version := k.ring_version;
    v_context.ring_inner := k.ring_inner;
    v_context.ring_outer := k.ring_outer;
    v_context.ring_prefix := k.ring_prefix;
    v_context.crypt_cost := k.crypt_cost;
    RETURN v_context;
END
$body$;
COMMENT ON FUNCTION secretproxy.testify(text, text, uuid, text[], text) IS 'Raises the signed INFO (SQLSTATE SPX01) that the proxy takes out of the stream';
ALTER FUNCTION secretproxy.testify(text, text, uuid, text[], text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.testify(text, text, uuid, text[], text) FROM PUBLIC;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('testimony', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = '7f2aff3ecac86f3a2128230a0c819efdffcd2852b732f8b40f1840f97ec47fe5' WHERE change = 'testimony';

-- Deploy secretproxy:secrets_table to pg
-- requires: schemas
-- requires: keyring
-- requires: crypto
-- The table of the original modules, adopted as it is where it exists. Values of format 2 begin with 0xFF 'SP2' and four bytes: the
-- version of the ring key (0: a password, which has none). Rows that are inserted directly are sealed by the triggers.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secrets_schema.secrets_table (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    secrets_owned_field uuid NOT NULL,
    name text NOT NULL,
    secrets_value_field bytea,
    secrets_enc_field text,
    UNIQUE (secrets_owned_field, name)
);
ALTER TABLE secrets_schema.secrets_table OWNER TO secretproxy_owner;

DO $do$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = 'secrets_schema.secrets_table'::regclass AND i.indisunique AND i.indpred IS NULL
          AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])) = ARRAY['name', 'secrets_owned_field']
    ) THEN
        ALTER TABLE secrets_schema.secrets_table ADD CONSTRAINT secrets_table_owner_name_key UNIQUE (secrets_owned_field, name);
    END IF;
END
$do$;
REVOKE ALL ON secrets_schema.secrets_table FROM PUBLIC;

-- The hexadecimal passphrase of one value: HMAC-SHA256(ring key, owner and name).
CREATE OR REPLACE FUNCTION secretproxy.value_key(inner_pad bytea, outer_pad bytea, owner uuid, name text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN secretproxy.hmac(inner_pad, outer_pad, uuid_send(owner) || secretproxy.to_bytes(name));

CREATE OR REPLACE FUNCTION secretproxy.password_hash(value bytea, cost int) RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN decode('ff53503200000000', 'hex'::text)
    || convert_to(secretproxy.bcrypt(encode(sha256(value), 'hex'::text), secretproxy.bcrypt_salt(cost)), 'SQL_ASCII'::name);

CREATE OR REPLACE FUNCTION secretproxy.seal(
    context secretproxy.call_context, owner uuid, name text, value bytea, field_encoding text
) RETURNS bytea
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF field_encoding = 'pgp' THEN
        RETURN context.ring_prefix || secretproxy.pgp_encrypt(
            value, secretproxy.value_key(context.ring_inner, context.ring_outer, owner, name));
    ELSIF field_encoding = 'crypt' THEN
        RETURN secretproxy.password_hash(value, context.crypt_cost);
    END IF;
    RETURN value;
END
$body$;

-- The bytes of a pgp value of either format.
CREATE OR REPLACE FUNCTION secretproxy.open_value(
    context secretproxy.call_context, owner uuid, name text, stored bytea
) RETURNS bytea
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_inner bytea := context.ring_inner;
    v_outer bytea := context.ring_outer;
BEGIN
    IF substr(stored, 1, 4) <> '\xff535032'::bytea THEN
        RETURN secretproxy.pgp_decrypt_1(stored, owner::text);
    END IF;
    IF substr(stored, 1, 8) <> context.ring_prefix THEN
        SELECT r.inner_pad, r.outer_pad INTO v_inner, v_outer
          FROM secretproxy.keyring r WHERE r.prefix = substr(stored, 1, 8);
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the key of this secret is not in secretproxy.keyring';
        END IF;
    END IF;
    RETURN secretproxy.pgp_decrypt(substr(stored, 9), secretproxy.value_key(v_inner, v_outer, owner, name));
END
$body$;

CREATE OR REPLACE FUNCTION secretproxy.current_ring() RETURNS secretproxy.call_context
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT (r.version, r.inner_pad, r.outer_pad, r.prefix, s.crypt_cost)::secretproxy.call_context
      FROM secretproxy.settings s, secretproxy.keyring r WHERE r.retired_at IS NULL ORDER BY r.version DESC LIMIT 1
$body$;

CREATE OR REPLACE FUNCTION secrets_schema.tg_hash_secrets() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF substr(NEW.secrets_value_field, 1, 4) = '\xff535032'::bytea THEN
        RETURN NEW; -- sealed already
    END IF;
    IF NEW.secrets_enc_field IN ('pgp', 'crypt') THEN
        NEW.secrets_value_field := secretproxy.seal(
            secretproxy.current_ring(), NEW.secrets_owned_field, NEW.name, NEW.secrets_value_field, NEW.secrets_enc_field);
    ELSE
        NEW.secrets_enc_field := 'none';
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION secrets_schema.tg_hash_secrets() IS 'Seals a value that is inserted or updated directly';

DO $do$
DECLARE
    v_function text;
    v_trigger name;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'secretproxy.value_key(bytea,bytea,uuid,text)', 'secretproxy.password_hash(bytea,int)',
        'secretproxy.seal(secretproxy.call_context,uuid,text,bytea,text)',
        'secretproxy.open_value(secretproxy.call_context,uuid,text,bytea)', 'secretproxy.current_ring()',
        'secrets_schema.tg_hash_secrets()'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO secretproxy_owner', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
    END LOOP;
    -- The original triggers call the function of the same name; where they are missing, ours take their place.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass
                   AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure AND tgtype & 4 <> 0) THEN
        CREATE TRIGGER hash_secrets_insert BEFORE INSERT ON secrets_schema.secrets_table
            FOR EACH ROW EXECUTE FUNCTION secrets_schema.tg_hash_secrets();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass
                   AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure AND tgtype & 16 <> 0) THEN
        CREATE TRIGGER hash_secrets_update BEFORE UPDATE ON secrets_schema.secrets_table
            FOR EACH ROW WHEN (NEW.secrets_value_field IS DISTINCT FROM OLD.secrets_value_field)
            EXECUTE FUNCTION secrets_schema.tg_hash_secrets();
    END IF;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('secrets_table', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'c73b411089c90f10bb19a9554f4ad44850612283e77ac6062f27ca27b874771e' WHERE change = 'secrets_table';

-- Deploy secretproxy:encrypted_secrets to pg
-- requires: testimony
-- requires: secrets_table
-- The API of the original module: names, parameters, defaults and results as there. Every function testifies before it does anything.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_upsert(
    v_secrets_owned_field uuid, secret_name text, secret_value text, field_encoding text DEFAULT 'pgp'
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_context secretproxy.call_context := secretproxy.testify(
        'encrypted_secrets.secrets_upsert(uuid,text,text,text)', 'write', v_secrets_owned_field, ARRAY[secret_name], field_encoding);
BEGIN
    IF field_encoding IS NULL OR field_encoding NOT IN ('pgp', 'crypt', 'none') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'field_encoding must be pgp, crypt or none';
    END IF;
    IF v_secrets_owned_field IS NULL OR secret_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
    END IF;
    INSERT INTO secrets_schema.secrets_table AS t (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
    VALUES (v_secrets_owned_field, secret_name,
            secretproxy.seal(v_context, v_secrets_owned_field, secret_name, secretproxy.to_bytes(secret_value), field_encoding),
            field_encoding)
    ON CONFLICT (secrets_owned_field, name) DO UPDATE
        SET secrets_value_field = EXCLUDED.secrets_value_field, secrets_enc_field = EXCLUDED.secrets_enc_field;
    RETURN true;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_upsert(uuid, text, text, text) IS 'Stores a secret: pgp (can be read again), crypt (can only be verified) or none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_getter(
    secrets_owned_field uuid, secret_name text, default_value text DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_context secretproxy.call_context := secretproxy.testify(
        'encrypted_secrets.secrets_getter(uuid,text,text)', 'read', secrets_getter.secrets_owned_field, ARRAY[secret_name], NULL);
    v_stored bytea;
    v_encoding text;
BEGIN
    SELECT t.secrets_value_field, t.secrets_enc_field INTO v_stored, v_encoding
      FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_getter.secrets_owned_field AND t.name = secret_name;
    IF NOT FOUND THEN
        RETURN default_value;
    ELSIF v_encoding = 'pgp' THEN
        RETURN secretproxy.to_text(
            secretproxy.open_value(v_context, secrets_getter.secrets_owned_field, secret_name, v_stored));
    ELSIF v_encoding = 'crypt' AND substr(v_stored, 1, 4) = '\xff535032'::bytea THEN
        RETURN convert_from(substr(v_stored, 9), 'SQL_ASCII');
    END IF;
    RETURN secretproxy.to_text(v_stored);
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) IS 'A secret, or the default where there is none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_verify(
    secrets_owned_field uuid, secret_name text, secret_value text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_context secretproxy.call_context := secretproxy.testify(
        'encrypted_secrets.secrets_verify(uuid,text,text)', 'verify', secrets_verify.secrets_owned_field, ARRAY[secret_name], NULL);
    v_id uuid;
    v_stored bytea;
    v_encoding text;
    v_hash text;
    v_right boolean;
BEGIN
    SELECT t.id, t.secrets_value_field, t.secrets_enc_field INTO v_id, v_stored, v_encoding
      FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_verify.secrets_owned_field AND t.name = secret_name;
    IF NOT FOUND THEN
        -- A missing password takes as long as a wrong one.
        PERFORM secretproxy.password_hash(secretproxy.to_bytes(coalesce(secret_value, '')), v_context.crypt_cost);
        RETURN false;
    ELSIF v_encoding = 'crypt' AND substr(v_stored, 1, 4) = '\xff535032'::bytea THEN
        v_hash := convert_from(substr(v_stored, 9), 'SQL_ASCII');
        v_right := secretproxy.bcrypt(encode(sha256(secretproxy.to_bytes(secret_value)), 'hex'), v_hash) = v_hash;
    ELSIF v_encoding = 'crypt' THEN
        -- Format 1: bcrypt over the text form of the bytes.
        v_hash := convert_from(v_stored, 'SQL_ASCII');
        v_right := secretproxy.bcrypt('\x' || encode(secretproxy.to_bytes(secret_value), 'hex'), v_hash) = v_hash;
        IF v_right AND current_setting('transaction_read_only') = 'off' THEN
            UPDATE secrets_schema.secrets_table t
               SET secrets_value_field = secretproxy.password_hash(secretproxy.to_bytes(secret_value), v_context.crypt_cost)
             WHERE t.id = v_id AND t.secrets_value_field = v_stored;
        END IF;
    ELSIF v_encoding = 'pgp' THEN
        v_right := secretproxy.open_value(v_context, secrets_verify.secrets_owned_field, secret_name, v_stored)
                   = secretproxy.to_bytes(secret_value);
    ELSE
        v_right := v_stored = secretproxy.to_bytes(secret_value);
    END IF;
    RETURN coalesce(v_right, false);
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_verify(uuid, text, text) IS 'Whether a value is the stored one; false where there is none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_context secretproxy.call_context := secretproxy.testify(
        'encrypted_secrets.secrets_delete(uuid,text)', 'delete', secrets_delete.secrets_owned_field, ARRAY[secret_name], NULL);
BEGIN
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = secret_name;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_delete(uuid, text) IS 'Deletes one secret';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_names text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_context secretproxy.call_context := secretproxy.testify(
        'encrypted_secrets.secrets_delete(uuid,text[])', 'delete', secrets_delete.secrets_owned_field, secret_names, NULL);
BEGIN
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = ANY (secret_names);
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_delete(uuid, text[]) IS 'Deletes several secrets';

DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'secrets_upsert(uuid,text,text,text)', 'secrets_getter(uuid,text,text)', 'secrets_verify(uuid,text,text)',
        'secrets_delete(uuid,text)', 'secrets_delete(uuid,text[])'] LOOP
        EXECUTE format('ALTER FUNCTION encrypted_secrets.%s OWNER TO secretproxy_owner', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION encrypted_secrets.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION encrypted_secrets.%s TO authenticated', v_function);
    END LOOP;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('encrypted_secrets', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;

UPDATE secretproxy.changes SET digest = 'b4578705603c115648c6e2515a8daa5d3e88cb037d5268f5f658845fa2f08d6f' WHERE change = 'encrypted_secrets';
