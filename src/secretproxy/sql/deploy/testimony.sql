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
