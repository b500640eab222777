-- Deploy secretproxy:key_rotation to pg
-- requires: secrets_table
-- New versions of the ring key, and values sealed again with the newest one. Values never leave the backend. For the owner alone.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION secretproxy.rotate_keyring() RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_version int;
BEGIN
    LOCK TABLE secretproxy.keyring IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO secretproxy.keyring (version, key)
    SELECT max(k.version) + 1, secretproxy.random_key() FROM secretproxy.keyring k
    RETURNING version INTO v_version;
    RETURN v_version;
END
$body$;
COMMENT ON FUNCTION secretproxy.rotate_keyring() IS 'Draws a new ring key that seals from now on; gives its version';

-- One batch, in the order of id, of values that the newest key did not seal. A row that another transaction holds is skipped
-- unless `wait`. `last` is the last row looked at, NULL where there was none left behind `after`. `failed` rows do not open.
CREATE OR REPLACE FUNCTION secretproxy.reencrypt(
    after uuid, batch int, wait boolean, OUT looked_at int, OUT done int, OUT failed int, OUT last uuid
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_ids uuid[];
    r record;
BEGIN
    SELECT * INTO v_context FROM secretproxy.context;
    looked_at := 0;
    done := 0;
    failed := 0;
    SELECT array_agg(p.id ORDER BY p.id) INTO v_ids
      FROM (SELECT t.id FROM secrets_schema.secrets_table t
             WHERE t.id > after AND t.secrets_enc_field = 'pgp' AND substr(t.secrets_value_field, 1, 8) <> v_context.ring_prefix
             ORDER BY t.id LIMIT batch) p;
    looked_at := coalesce(cardinality(v_ids), 0);
    last := v_ids[looked_at];
    -- Locked rows are read again as they are now: what a writer changed or deleted meanwhile is not put back.
    IF wait THEN
        PERFORM FROM secrets_schema.secrets_table t WHERE t.id = ANY (v_ids) ORDER BY t.id FOR UPDATE;
    ELSE
        v_ids := ARRAY(SELECT t.id FROM secrets_schema.secrets_table t WHERE t.id = ANY (v_ids) ORDER BY t.id FOR UPDATE SKIP LOCKED);
    END IF;
    FOR r IN SELECT t.id, t.secrets_owned_field AS owner, t.name, t.secrets_value_field AS stored
               FROM secrets_schema.secrets_table t
              WHERE t.id = ANY (v_ids) AND t.secrets_enc_field = 'pgp' AND substr(t.secrets_value_field, 1, 8) <> v_context.ring_prefix LOOP
        BEGIN
            UPDATE secrets_schema.secrets_table t
               SET secrets_value_field = secretproxy.seal(
                    v_context, r.owner, r.name, secretproxy.open_value(v_context, r.owner, r.name, r.stored), 'pgp')
             WHERE t.id = r.id;
            done := done + 1;
        EXCEPTION WHEN data_exception OR external_routine_exception OR external_routine_invocation_exception THEN
            failed := failed + 1; -- its own error is not told: it could quote the value
        END;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION secretproxy.reencrypt(uuid, int, boolean) IS 'Seals a batch of values again, with the newest ring key';

-- Rows by what they are stored as.
CREATE OR REPLACE FUNCTION secretproxy.stored_formats(OUT encoding text, OUT format int, OUT key_version int, OUT stored bigint)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT t.secrets_enc_field,
           CASE WHEN t.secrets_enc_field NOT IN ('pgp', 'crypt') THEN 0
                WHEN substr(t.secrets_value_field, 1, 4) = decode('ff535032', 'hex') THEN 2 ELSE 1 END AS format,
           CASE WHEN t.secrets_enc_field = 'pgp' AND substr(t.secrets_value_field, 1, 4) = decode('ff535032', 'hex')
                THEN ('x' || encode(substr(t.secrets_value_field, 5, 4), 'hex'))::bit(32)::int END AS key_version,
           count(*)
      FROM secrets_schema.secrets_table t GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
$body$;
COMMENT ON FUNCTION secretproxy.stored_formats() IS 'How many values are stored in which encoding, format and key version';

DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['rotate_keyring()', 'reencrypt(uuid,int,boolean)', 'stored_formats()'] LOOP
        EXECUTE format('ALTER FUNCTION secretproxy.%s OWNER TO secretproxy_owner', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION secretproxy.%s FROM PUBLIC', v_function);
    END LOOP;
END
$do$;
-- For doctor: it counts, and tells nothing else.
GRANT EXECUTE ON FUNCTION secretproxy.stored_formats() TO secretproxy_auditor;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('key_rotation', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
