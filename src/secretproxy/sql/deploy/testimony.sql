-- Deploy secretproxy:testimony to pg
-- requires: context
-- requires: jwt_public
-- requires: access_log
-- Testimony, the first step of every API function: it finds out whether the session is proxied, and tells the proxy, signed, that the
-- function runs, for whom and for which secret.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION secretproxy.backend_start() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT (extract(epoch FROM a.backend_start) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8 FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
$body$;
COMMENT ON FUNCTION secretproxy.backend_start() IS 'When this backend process started, in microseconds since the Unix epoch';
ALTER FUNCTION secretproxy.backend_start() OWNER TO secretproxy_owner;
GRANT EXECUTE ON FUNCTION secretproxy.backend_start() TO PUBLIC;

-- Text as one ASCII token: hexadecimal, or `-` for NULL.
CREATE OR REPLACE FUNCTION secretproxy.token(value pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(pg_catalog.encode(secretproxy.to_bytes(value), 'hex'::pg_catalog.text), '-'::pg_catalog.text);
ALTER FUNCTION secretproxy.token(pg_catalog.text) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.token(pg_catalog.text) FROM PUBLIC;

-- Holds what a session remembers of itself: setval() makes the value that currval() gives to this session and to no other, and only the
-- owner may call either. The value is the session's start in microseconds since the Unix epoch, negative as long as no valid token was
-- seen. Unlogged where PostgreSQL can (15 and later), so that nothing waits for a disk.
DO $do$
BEGIN
    IF pg_catalog.to_regclass('secretproxy.session_start') IS NULL THEN
        EXECUTE CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 150000 THEN 'CREATE UNLOGGED SEQUENCE' ELSE 'CREATE SEQUENCE' END
            OPERATOR(pg_catalog.||) ' secretproxy.session_start MINVALUE -9223372036854775807';
    END IF;
END
$do$;
ALTER SEQUENCE secretproxy.session_start OWNER TO secretproxy_keys;
REVOKE ALL ON SEQUENCE secretproxy.session_start FROM PUBLIC;
COMMENT ON SEQUENCE secretproxy.session_start IS 'Its currval is the start of the session that asks; no number is ever drawn from it';

-- A function that holds keys in variables plans generically: debug_print_plan shows a client the plans that its calls make, and a plan for one
-- execution holds the values of its variables. No body has a backslash in a string: standard_conforming_strings is the client's to set.

-- Refuses a process that is no client's session and that the settings do not name.
CREATE OR REPLACE FUNCTION secretproxy.refuse_process(context secretproxy.context, kind pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
AS $body$
BEGIN
    IF (kind OPERATOR(pg_catalog.=) ANY (context.backend_types)) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '25000',
            MESSAGE = pg_catalog.concat('encrypted_secrets functions cannot run in a process that is no client''s session (', kind, ')'),
            HINT = 'Add this backend_type to backend_types of secretproxy.settings if its calls are wanted; they count as direct ones.';
    END IF;
END
$body$;
ALTER FUNCTION secretproxy.refuse_process(secretproxy.context, pg_catalog.text) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.refuse_process(secretproxy.context, pg_catalog.text) FROM PUBLIC;

-- The start of this backend, positive if the session is proxied: if it has, or had, a valid token. Looking the start up copies the
-- state of every backend, and checking a token costs two hashes, so what was found is remembered where something can be written.
-- A process that is no client's (autovacuum, an apply worker of logical replication, a background worker, a walsender without a token) is
-- refused: nobody hears what it testifies to. What is said of such a one is never remembered, so each call asks anew whether the settings name it.
CREATE OR REPLACE FUNCTION secretproxy.own_start(context secretproxy.context) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_known pg_catalog.int8;
    v_start pg_catalog.int8;
    v_type pg_catalog.text := 'client backend';
    v_token pg_catalog.text := pg_catalog.current_setting('secretproxy.session', true);
    v_signed pg_catalog.bytea;
BEGIN
    BEGIN
        v_known := pg_catalog.currval('secretproxy.session_start'::pg_catalog.regclass);
        IF v_known OPERATOR(pg_catalog.>) 0 THEN
            RETURN v_known;
        END IF;
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        NULL; -- not looked up yet
    END;
    v_start := v_known;
    IF v_start IS NULL THEN
        SELECT 0 OPERATOR(pg_catalog.-) (extract(epoch FROM a.backend_start) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, a.backend_type INTO v_start, v_type
          FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a;
        IF v_type IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '25000',
                MESSAGE = 'encrypted_secrets functions cannot see what kind of process runs them',
                HINT = 'GRANT pg_read_all_stats TO secretproxy_keys, or run secretproxy install.';
        ELSIF v_type OPERATOR(pg_catalog.=) 'parallel worker' THEN
            -- Only under a function that says it is parallel safe and is not. Nobody hears a worker as what it is.
            RAISE EXCEPTION USING ERRCODE = '25000', MESSAGE = 'encrypted_secrets functions cannot run in a parallel worker',
                HINT = 'Mark the functions that call them PARALLEL UNSAFE, which is the default.';
        ELSIF v_type OPERATOR(pg_catalog.<>) 'client backend' AND v_type OPERATOR(pg_catalog.<>) 'walsender' THEN
            PERFORM secretproxy.refuse_process(context, v_type);
            RETURN v_start;
        END IF;
    END IF;
    IF v_token OPERATOR(pg_catalog.~~) '1.%.%' THEN
        v_signed := pg_catalog.convert_to(pg_catalog.concat('SPXT1 ', pg_catalog.pg_backend_pid(), ' ', 0 OPERATOR(pg_catalog.-) v_start), 'SQL_ASCII');
        IF v_token OPERATOR(pg_catalog.=) pg_catalog.concat('1.', context.testimony_version, '.', secretproxy.hmac(context.testimony_inner, context.testimony_outer, v_signed))
            OR EXISTS (
                SELECT FROM secretproxy.testimony_key o
                WHERE o.retired_at IS NULL
                  AND v_token OPERATOR(pg_catalog.=) pg_catalog.concat('1.', o.version, '.', secretproxy.hmac(o.inner_pad, o.outer_pad, v_signed)))
        THEN
            v_start := 0 OPERATOR(pg_catalog.-) v_start;
        END IF;
    END IF;
    IF v_type OPERATOR(pg_catalog.=) 'walsender' AND v_start OPERATOR(pg_catalog.<) 0 THEN
        -- A client's session with replication=database; the proxy hears it like any other, nobody hears one without a token.
        PERFORM secretproxy.refuse_process(context, v_type);
        RETURN v_start;
    END IF;
    IF (v_known IS NULL OR v_start OPERATOR(pg_catalog.<>) v_known) AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off' THEN
        RETURN pg_catalog.setval('secretproxy.session_start'::pg_catalog.regclass, v_start);
    END IF;
    RETURN v_start;
END
$body$;
ALTER FUNCTION secretproxy.own_start(secretproxy.context) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.own_start(secretproxy.context) FROM PUBLIC;

-- Returns what testimony says of a proxied session, PID and START, as a constant of the statements that the session has planned, at no cost for
-- each run: that is why it says it is immutable. A plan belongs to one session, as its start does. NULL in one that is not known to be
-- proxied; a plan made before it was known says so too, and for longer than is true, never the reverse. A process that is no client's has
-- no token and so no such constant; one that was passed a plan does not exist, for the statement that holds the constant is unsafe in parallel.
CREATE OR REPLACE FUNCTION secretproxy.planned_session() RETURNS pg_catalog.text
LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
AS $body$
DECLARE
    v_start pg_catalog.int8 := (SELECT secretproxy.own_start(c) FROM secretproxy.context c);
BEGIN
    RETURN CASE WHEN v_start OPERATOR(pg_catalog.>) 0 THEN pg_catalog.concat(pg_catalog.pg_backend_pid(), ' ', v_start) END;
END
$body$;
ALTER FUNCTION secretproxy.planned_session() OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.planned_session() FROM PUBLIC;

-- Masks a name that may be a value: the log gets a keyed digest of it. NameMask of the proxy does the same.
CREATE OR REPLACE FUNCTION secretproxy.masked(context secretproxy.context, name pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE sql STABLE
RETURN CASE
    WHEN pg_catalog.octet_length(secretproxy.to_bytes(name)) OPERATOR(pg_catalog.<=) (context).max_name
         AND ((context).name_pattern OPERATOR(pg_catalog.=) ''::pg_catalog.text OR NOT name OPERATOR(pg_catalog.~) (context).name_pattern)
         -- A name that reads like what stands for another is told from it.
         THEN CASE WHEN name OPERATOR(pg_catalog.~) '^(masked|escaped|name):'::pg_catalog.text THEN 'name:'::pg_catalog.text OPERATOR(pg_catalog.||) name ELSE name END
    WHEN name IS NOT NULL THEN 'masked:'::pg_catalog.text OPERATOR(pg_catalog.||) pg_catalog.left(
        secretproxy.hmac(
            (context).testimony_inner, (context).testimony_outer,
            pg_catalog.convert_to('secretproxy name mask '::pg_catalog.text, 'SQL_ASCII'::pg_catalog.name) OPERATOR(pg_catalog.||) secretproxy.to_bytes(name)),
        32)
    END;
ALTER FUNCTION secretproxy.masked(secretproxy.context, pg_catalog.text) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.masked(secretproxy.context, pg_catalog.text) FROM PUBLIC;

-- The row of a direct call. It runs as the log's owner, so that nothing that is attached to the log runs as the role that holds keys, and
-- only that role may call it.
CREATE OR REPLACE FUNCTION secretproxy.log_direct(
    function_signature pg_catalog.text, function_operation pg_catalog.text, owner pg_catalog.uuid, names pg_catalog.text[], field_encoding pg_catalog.text, role_name pg_catalog.text, jwt_user pg_catalog.uuid, application pg_catalog.text
) RETURNS pg_catalog.void
LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    INSERT INTO secretproxy.access_log
        (event, function, operation, owner_id, secret_names, encoding, db_user, role, accessed_by, database,
         application_name, client_addr, client_port)
    VALUES
        ('direct', function_signature, function_operation, owner, names, field_encoding, session_user, role_name, jwt_user,
         pg_catalog.current_database(), application, pg_catalog.inet_client_addr(), pg_catalog.inet_client_port())
$body$;
ALTER FUNCTION secretproxy.log_direct(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.log_direct(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.log_direct(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text) TO secretproxy_keys;

-- Where the session is known to be proxied and a call has one name, begin_call() says the same in fewer steps, and secrets_getter() and
-- secrets_verify() in fewer steps still and another form (secretproxy.read_secret, secretproxy.verify_secret).
CREATE OR REPLACE FUNCTION secretproxy.testify(
    context secretproxy.context, function_signature pg_catalog.text, function_operation pg_catalog.text, owner pg_catalog.uuid, names pg_catalog.text[], field_encoding pg_catalog.text
) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_start pg_catalog.int8 := secretproxy.own_start(context);
    v_role pg_catalog.text := CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' THEN pg_catalog.current_setting('role') END;
    v_user pg_catalog.uuid := secretproxy.jwt_user();
    v_proxied pg_catalog.bool := v_start OPERATOR(pg_catalog.>) 0;
    v_names pg_catalog.text;
    v_message pg_catalog.text;
    v_refused pg_catalog.bool;
    v_written pg_catalog.bool := pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off';
BEGIN
    IF names IS NULL THEN
        v_names := '-';
    ELSIF pg_catalog.cardinality(names) OPERATOR(pg_catalog.=) 0 THEN
        v_names := '=';
    ELSIF pg_catalog.cardinality(names) OPERATOR(pg_catalog.=) 1 AND names[1] OPERATOR(pg_catalog.<>) '' THEN
        v_names := pg_catalog.encode(secretproxy.to_bytes(names[1]), 'hex');
    ELSE
        SELECT pg_catalog.string_agg(CASE WHEN n IS NULL THEN '~' WHEN n OPERATOR(pg_catalog.=) '' THEN '_' ELSE pg_catalog.encode(secretproxy.to_bytes(n), 'hex') END, ',' ORDER BY i)
          INTO v_names FROM pg_catalog.unnest(names) WITH ORDINALITY u(n, i);
    END IF;
    IF pg_catalog.length(v_names) OPERATOR(pg_catalog.>) 4000000 THEN
        -- What cannot be told cannot be done: the proxy does not read testimony of any length.
        RAISE EXCEPTION USING ERRCODE = '54000', MESSAGE = 'too many secret names in one call', HINT = 'Make several calls.';
    END IF;
    v_message := pg_catalog.concat_ws(' ', context.testimony_head, pg_catalog.pg_backend_pid(), pg_catalog.abs(v_start),
        pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.clock_timestamp()), 'hex'),
        function_signature,
        coalesce(owner::pg_catalog.text, '-'),
        v_names,
        secretproxy.token(field_encoding),
        secretproxy.token(session_user::pg_catalog.text),
        secretproxy.token(v_role),
        coalesce(v_user::pg_catalog.text, '-'),
        CASE WHEN v_proxied THEN 'p -' ELSE 'd -' END);
    v_message := pg_catalog.concat(v_message, ' ',
        secretproxy.hmac(context.testimony_inner, context.testimony_outer, pg_catalog.convert_to(v_message, 'SQL_ASCII')));
    IF v_proxied THEN
        RAISE INFO SQLSTATE 'SPX01' USING MESSAGE = v_message;
    ELSE
        -- A background process that got here is one that the settings name: its calls are logged, whatever becomes of other direct ones.
        v_refused := context.direct_calls OPERATOR(pg_catalog.=) 'refuse' AND (
            SELECT a.backend_type OPERATOR(pg_catalog.=) 'client backend' FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a) IS NOT FALSE;
        -- People see this one. What the proxy needs, where it is there all the same (a client may spoil its session's token), stands in a field
        -- that clients do not show.
        RAISE INFO SQLSTATE 'SPX01' USING
            MESSAGE = pg_catalog.concat('secretproxy: this call of ', pg_catalog.split_part(function_signature, '(', 1), ' came by no proxy ',
                CASE WHEN v_refused THEN 'and is refused' WHEN v_written THEN 'and is logged as a direct one'
                     ELSE 'and is not logged: this transaction cannot write' END),
            CONSTRAINT = v_message;
        IF v_refused THEN
            RAISE EXCEPTION USING ERRCODE = '42501',
                MESSAGE = 'calls of encrypted_secrets functions must come through secretproxy',
                HINT = 'Point the DSN at secretproxy, or set direct_calls of secretproxy.settings to log.';
        END IF;
        -- Where nothing can be written (a read-only transaction, a standby) the call is not made to fail for its log row.
        IF v_written THEN
            PERFORM secretproxy.log_direct(
                function_signature, function_operation, owner,
                CASE WHEN names IS NOT NULL THEN ARRAY(
                    SELECT secretproxy.masked(context, n) FROM pg_catalog.unnest(names) WITH ORDINALITY u(n, i) ORDER BY i) END,
                CASE WHEN field_encoding OPERATOR(pg_catalog.=) ANY (ARRAY['pgp', 'crypt', 'none']) THEN field_encoding END,
                v_role, v_user,
                CASE WHEN pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.<>) '' THEN secretproxy.masked(context, pg_catalog.current_setting('application_name')) END);
        END IF;
    END IF;

    IF context.owner_check OPERATOR(pg_catalog.=) 'jwt' AND (owner OPERATOR(pg_catalog.=) v_user) IS NOT TRUE AND EXISTS (
        SELECT FROM pg_catalog.pg_roles r
         WHERE (r.rolname OPERATOR(pg_catalog.=) session_user OR r.rolname OPERATOR(pg_catalog.=) v_role::pg_catalog.name) AND NOT r.rolsuper
           AND pg_catalog.pg_has_role(r.oid, 'authenticated', 'MEMBER'))
    THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = 'members of authenticated may only use secrets of jwt_public.current_user_id()',
            HINT = 'See owner_check of secretproxy.settings.';
    END IF;
END
$body$;
COMMENT ON FUNCTION secretproxy.testify(secretproxy.context, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) IS 'Raises the signed INFO (SQLSTATE SPX01) that the proxy takes out of the stream';
ALTER FUNCTION secretproxy.testify(secretproxy.context, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.testify(secretproxy.context, pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) FROM PUBLIC;

-- Begins a call. The API functions call this one.
CREATE OR REPLACE FUNCTION secretproxy.begin_call(
    function_signature pg_catalog.text, function_operation pg_catalog.text, owner pg_catalog.uuid, names pg_catalog.text[], field_encoding pg_catalog.text
) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_key pg_catalog.bytea;
    v_usual pg_catalog.bool;
    v_message pg_catalog.text;
    v_user pg_catalog.uuid;
BEGIN
    -- The usual call: one look-up and one expression in the place of twenty. What testify() says, in its form. What is not usual is its own.
    -- The claims of a session that has set none are asked for by two functions in the place of nine.
    IF pg_catalog.cardinality(names) OPERATOR(pg_catalog.=) 1 AND names[1] OPERATOR(pg_catalog.<>) '' AND pg_catalog.octet_length(names[1]) OPERATOR(pg_catalog.<=) 4000 THEN
        IF coalesce(pg_catalog.current_setting('jwt.claims.user_id', true), pg_catalog.current_setting('request.jwt.claims', true)) IS NOT NULL THEN
            v_user := secretproxy.jwt_user();
        END IF;
        SELECT c.testimony_key, secretproxy.planned_session() IS NOT NULL AND c.usual_mark IS NOT NULL,
               pg_catalog.format('SPX1 %1$s %2$s %3$s %4$s %5$s %6$s %7$s %8$s %9$s %10$s p -', c.testimony_version, secretproxy.planned_session(),
                   pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.clock_timestamp()), 'hex'), function_signature,
                   coalesce(begin_call.owner::pg_catalog.text, '-'),
                   pg_catalog.encode(pg_catalog.convert_to(names[1], c.charset), 'hex'),
                   coalesce(pg_catalog.encode(pg_catalog.convert_to(field_encoding, c.charset), 'hex'), '-'),
                   pg_catalog.encode(pg_catalog.convert_to(session_user::pg_catalog.text, c.charset), 'hex'),
                   CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' THEN '-' ELSE pg_catalog.encode(pg_catalog.convert_to(pg_catalog.current_setting('role'), c.charset), 'hex') END,
                   coalesce(v_user::pg_catalog.text, '-'))
          INTO v_key, v_usual, v_message
          FROM secretproxy.context c;
        IF v_usual THEN
            RAISE INFO SQLSTATE 'SPX01' USING
                MESSAGE = pg_catalog.concat(v_message, ' ', pg_catalog.encode(secretproxy.mac(pg_catalog.convert_to(v_message, 'SQL_ASCII'), v_key), 'hex'));
            RETURN;
        END IF;
    END IF;
    SELECT c.* INTO v_context FROM secretproxy.context c;
    IF NOT FOUND THEN
        -- Another version's row: an upgrade made the table anew. Without keys there is no testimony, and so there is no call.
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'this transaction began before secretproxy was upgraded', HINT = 'Begin another.';
    END IF;
    PERFORM secretproxy.testify(v_context, function_signature, function_operation, owner, names, field_encoding);
END
$body$;
COMMENT ON FUNCTION secretproxy.begin_call(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) IS 'What every function of the API does before it does anything else';
ALTER FUNCTION secretproxy.begin_call(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.begin_call(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.begin_call(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text) TO secretproxy_api;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('testimony', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
