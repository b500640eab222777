-- Deploy secretproxy:testimony to pg
-- requires: context
-- requires: jwt_public
-- requires: access_log
-- What every API function does first: it tells the proxy that it runs, for whom and for which secret, signed; it finds out whether
-- the session is proxied.

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

-- What a session remembers of itself: setval() makes the value that currval() gives to this session and to no other, and only the
-- owner may call either. The value is the session's start in microseconds since the Unix epoch, negative as long as no valid token was
-- seen. Unlogged where PostgreSQL can (15 and later), so that nothing waits for a disk.
DO $do$
BEGIN
    IF to_regclass('secretproxy.session_start') IS NULL THEN
        EXECUTE CASE WHEN current_setting('server_version_num')::int >= 150000 THEN 'CREATE UNLOGGED SEQUENCE' ELSE 'CREATE SEQUENCE' END
            || ' secretproxy.session_start MINVALUE -9223372036854775807';
    END IF;
END
$do$;
ALTER SEQUENCE secretproxy.session_start OWNER TO secretproxy_owner;
REVOKE ALL ON SEQUENCE secretproxy.session_start FROM PUBLIC;
COMMENT ON SEQUENCE secretproxy.session_start IS 'Its currval is the start of the session that asks; no number is ever drawn from it';

-- Whoever holds keys in variables plans generically: debug_print_plan shows a client the plans that its calls make, and a plan for one
-- execution holds the values of its variables. No body has a backslash in a string: standard_conforming_strings is the client's to set.

-- The start of this backend, positive if the session is proxied: if it has, or had, a valid token. Looking the start up copies the
-- state of every backend, and checking a token costs two hashes, so what was found is remembered where something can be written.
CREATE OR REPLACE FUNCTION secretproxy.own_start(context secretproxy.context) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_known bigint;
    v_start bigint;
    v_worker boolean;
    v_token text := current_setting('secretproxy.session', true);
    v_signed bytea;
BEGIN
    BEGIN
        v_known := currval('secretproxy.session_start'::regclass);
        IF v_known > 0 THEN
            RETURN v_known;
        END IF;
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        NULL; -- not looked up yet
    END;
    v_start := v_known;
    IF v_start IS NULL THEN
        SELECT -(extract(epoch FROM a.backend_start) * 1000000)::bigint, a.leader_pid IS NOT NULL INTO v_start, v_worker
          FROM pg_stat_get_activity(pg_backend_pid()) a;
        IF v_worker THEN
            -- Only under a function that says it is parallel safe and is not. Nobody hears a worker as what it is.
            RAISE EXCEPTION USING ERRCODE = '25000', MESSAGE = 'encrypted_secrets functions cannot run in a parallel worker',
                HINT = 'Mark the functions that call them PARALLEL UNSAFE, which is the default.';
        END IF;
        v_start := coalesce(v_start, -1);
    END IF;
    IF v_token LIKE '1.%.%' THEN
        v_signed := convert_to('SPXT1 ' || pg_backend_pid() || ' ' || -v_start, 'SQL_ASCII');
        IF v_token = '1.' || context.testimony_version || '.' || secretproxy.hmac(context.testimony_inner, context.testimony_outer, v_signed)
            OR EXISTS (
                SELECT FROM secretproxy.testimony_key o
                WHERE o.retired_at IS NULL AND v_token = '1.' || o.version || '.' || secretproxy.hmac(o.inner_pad, o.outer_pad, v_signed))
        THEN
            v_start := -v_start;
        END IF;
    END IF;
    IF v_start IS DISTINCT FROM v_known AND current_setting('transaction_read_only') = 'off' THEN
        RETURN setval('secretproxy.session_start'::regclass, v_start);
    END IF;
    RETURN v_start;
END
$body$;
ALTER FUNCTION secretproxy.own_start(secretproxy.context) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.own_start(secretproxy.context) FROM PUBLIC;

-- What testimony says of a proxied session, PID and START, as a constant of the statements that the session has planned, at no cost for
-- each run: that is why it says it is immutable. A plan belongs to one session, as its start does. NULL in one that is not known to be
-- proxied; a plan made before it was known says so too, and for longer than is true, never the reverse.
CREATE OR REPLACE FUNCTION secretproxy.planned_session() RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
AS $body$
DECLARE
    v_start bigint := (SELECT secretproxy.own_start(c) FROM secretproxy.context c);
BEGIN
    RETURN CASE WHEN v_start > 0 THEN pg_backend_pid() || ' ' || v_start END;
END
$body$;
ALTER FUNCTION secretproxy.planned_session() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.planned_session() FROM PUBLIC;

-- What a client put in the place of a name and may be a value stands in the log as a keyed digest: NameMask of the proxy does the same.
CREATE OR REPLACE FUNCTION secretproxy.masked(context secretproxy.context, name text) RETURNS text
LANGUAGE sql STABLE
RETURN (
    SELECT CASE
        WHEN octet_length(secretproxy.to_bytes(name)) <= s.max_name AND (s.name_pattern = ''::text OR NOT name ~ s.name_pattern) THEN name
        WHEN name IS NOT NULL THEN 'masked:'::text || left(
            secretproxy.hmac(
                (context).testimony_inner, (context).testimony_outer,
                convert_to('secretproxy name mask '::text, 'SQL_ASCII'::name) || secretproxy.to_bytes(name)),
            32)
        END
      FROM secretproxy.settings s
);
ALTER FUNCTION secretproxy.masked(secretproxy.context, text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.masked(secretproxy.context, text) FROM PUBLIC;

-- secrets_getter() says the same in fewer steps and another form where the session is known to be proxied.
-- Runs under the pinned search_path of the API function that calls it.
CREATE OR REPLACE FUNCTION secretproxy.testify(
    context secretproxy.context, function_signature text, function_operation text, owner uuid, names text[], field_encoding text
) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_start bigint := secretproxy.own_start(context);
    v_role text := nullif(current_setting('role'), 'none');
    v_user uuid := secretproxy.jwt_user();
    v_proxied boolean := v_start > 0;
    v_names text;
    v_message text;
BEGIN
    IF names IS NULL THEN
        v_names := '-';
    ELSIF cardinality(names) = 0 THEN
        v_names := '=';
    ELSIF cardinality(names) = 1 AND names[1] <> '' THEN
        v_names := encode(secretproxy.to_bytes(names[1]), 'hex');
    ELSE
        SELECT string_agg(CASE WHEN n IS NULL THEN '~' WHEN n = '' THEN '_' ELSE encode(secretproxy.to_bytes(n), 'hex') END, ',' ORDER BY i)
          INTO v_names FROM unnest(names) WITH ORDINALITY u(n, i);
    END IF;
    IF length(v_names) > 4000000 THEN
        -- What cannot be told cannot be done: the proxy does not read testimony of any length.
        RAISE EXCEPTION USING ERRCODE = '54000', MESSAGE = 'too many secret names in one call', HINT = 'Make several calls.';
    END IF;
    v_message := context.testimony_head || ' ' || pg_backend_pid() || ' ' || abs(v_start)
        || ' ' || encode(timestamptz_send(clock_timestamp()), 'hex')
        || ' ' || function_signature
        || ' ' || coalesce(owner::text, '-')
        || ' ' || v_names
        || ' ' || secretproxy.token(field_encoding)
        || ' ' || secretproxy.token(session_user::text)
        || ' ' || secretproxy.token(v_role)
        || ' ' || coalesce(v_user::text, '-')
        || CASE WHEN v_proxied THEN ' p -' ELSE ' d -' END;
    v_message := v_message || ' '
        || secretproxy.hmac(context.testimony_inner, context.testimony_outer, convert_to(v_message, 'SQL_ASCII'));
    RAISE INFO SQLSTATE 'SPX01' USING MESSAGE = v_message;

    IF NOT v_proxied THEN
        IF context.direct_calls = 'refuse' THEN
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
                ('direct', function_signature, function_operation, owner,
                 CASE WHEN names IS NOT NULL THEN ARRAY(
                     SELECT secretproxy.masked(context, n) FROM unnest(names) WITH ORDINALITY u(n, i) ORDER BY i) END,
                 CASE WHEN field_encoding IN ('pgp', 'crypt', 'none') THEN field_encoding END,
                 session_user, v_role, v_user, current_database(),
                 secretproxy.masked(context, nullif(current_setting('application_name'), '')), inet_client_addr(), inet_client_port());
        END IF;
    END IF;

    IF context.owner_check = 'jwt' AND owner IS DISTINCT FROM v_user AND coalesce(v_role, session_user) = 'authenticated' THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = 'this role may only use secrets of jwt_public.current_user_id()',
            HINT = 'See owner_check of secretproxy.settings.';
    END IF;
END
$body$;
COMMENT ON FUNCTION secretproxy.testify(secretproxy.context, text, text, uuid, text[], text) IS 'Raises the signed INFO (SQLSTATE SPX01) that the proxy takes out of the stream';
ALTER FUNCTION secretproxy.testify(secretproxy.context, text, text, uuid, text[], text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.testify(secretproxy.context, text, text, uuid, text[], text) FROM PUBLIC;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('testimony', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
