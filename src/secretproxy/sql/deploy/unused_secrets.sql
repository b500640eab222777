-- Deploy secretproxy:unused_secrets to pg
-- requires: testimony
-- requires: stored_secrets
-- Lists the stored secrets, with their names in the form that the log has, for `secretproxy audit unused`.
-- No function here takes a name: the role that holds the key masks what is stored and nothing that is handed to it, so that nobody can ask
-- which mask a guessed name has.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION secretproxy.names_to_mask(OUT owner pg_catalog.uuid, OUT name pg_catalog.text) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN QUERY SELECT t.secrets_owned_field, t.name FROM secrets_schema.secrets_table t;
END
$body$;
COMMENT ON FUNCTION secretproxy.names_to_mask() IS 'Owner and name of each stored secret';
ALTER FUNCTION secretproxy.names_to_mask() OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.names_to_mask() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.names_to_mask() TO secretproxy_keys;

-- `name` is what the log shows by the settings of today; `masks` what it shows where a proxy masks more, or did so under an older key.
CREATE OR REPLACE FUNCTION secretproxy.stored_names(OUT owner pg_catalog.uuid, OUT name pg_catalog.text, OUT masks pg_catalog.text[]) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
DECLARE
    v_context secretproxy.context;
    v_owner pg_catalog.uuid;
    v_name pg_catalog.text;
BEGIN
    SELECT c.* INTO v_context FROM secretproxy.context c;
    FOR v_owner, v_name IN SELECT s.owner, s.name FROM secretproxy.names_to_mask() s LOOP
        owner := v_owner;
        name := secretproxy.masked(v_context, v_name);
        masks := ARRAY(
            SELECT pg_catalog.concat('masked:', pg_catalog."left"(secretproxy.hmac(
                       k.inner_pad, k.outer_pad,
                       pg_catalog.convert_to('secretproxy name mask ', 'SQL_ASCII') OPERATOR(pg_catalog.||) secretproxy.to_bytes(v_name)), 32))
              FROM secretproxy.testimony_key k ORDER BY k.version);
        RETURN NEXT;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION secretproxy.stored_names() IS 'Owner and name of each stored secret, the name as the log shows it, and its masks';
ALTER FUNCTION secretproxy.stored_names() OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.stored_names() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.stored_names() TO secretproxy_auditor;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('unused_secrets', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
