-- Deploy secretproxy:key_rotation to pg
-- requires: secrets_table
-- requires: stored_secrets
-- New versions of the ring key, and values sealed again with the newest one. Values never leave the backend. For secretproxy_keys alone.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION secretproxy.rotate_keyring() RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_version pg_catalog.int4;
BEGIN
    LOCK TABLE secretproxy.keyring IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO secretproxy.keyring (version, key)
    SELECT pg_catalog.max(k.version) OPERATOR(pg_catalog.+) 1, secretproxy.random_key() FROM secretproxy.keyring k
    RETURNING version INTO v_version;
    RETURN v_version;
END
$body$;
COMMENT ON FUNCTION secretproxy.rotate_keyring() IS 'Draws a new ring key that seals from now on; gives its version';

-- One batch, in the order of id, of values that the newest key did not seal. A row that another transaction holds is skipped
-- unless `wait`. `last` is the last row looked at, NULL where there was none left behind `after`. `failed` rows do not open.
CREATE OR REPLACE FUNCTION secretproxy.reencrypt(
    after pg_catalog.uuid, batch int, wait boolean, OUT looked_at int, OUT done int, OUT failed int, OUT last pg_catalog.uuid
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_prefix pg_catalog.bytea := secretproxy.ring_prefix();
    v_ids pg_catalog.uuid[] := secretproxy.ids_to_seal(after, batch, v_prefix);
    v_id pg_catalog.uuid;
    v_owner pg_catalog.uuid;
    v_name pg_catalog.text;
    v_stored pg_catalog.bytea;
BEGIN
    done := 0;
    failed := 0;
    looked_at := coalesce(pg_catalog.cardinality(v_ids), 0);
    last := v_ids[looked_at];
    FOR v_id, v_owner, v_name, v_stored IN
        SELECT r.id, r.owner, r.name, r.stored FROM secretproxy.rows_to_seal(v_ids, v_prefix, wait) r
    LOOP
        BEGIN
            PERFORM secretproxy.set_value(
                v_id, secretproxy.seal_secret(v_owner, v_name, secretproxy.open_secret(v_owner, v_name, v_stored), 'pgp'));
            done := done OPERATOR(pg_catalog.+) 1;
        EXCEPTION WHEN data_exception OR external_routine_exception OR external_routine_invocation_exception THEN
            failed := failed OPERATOR(pg_catalog.+) 1; -- its own error is not told: it could quote the value
        END;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION secretproxy.reencrypt(pg_catalog.uuid, int, boolean) IS 'Seals a batch of values again, with the newest ring key';

CREATE OR REPLACE FUNCTION secretproxy.values_to_seal() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN secretproxy.count_to_seal(secretproxy.ring_prefix());
END
$body$;
COMMENT ON FUNCTION secretproxy.values_to_seal() IS 'How many values another than the newest ring key sealed';

ALTER FUNCTION secretproxy.rotate_keyring() OWNER TO secretproxy_keys;
ALTER FUNCTION secretproxy.reencrypt(pg_catalog.uuid, int, boolean) OWNER TO secretproxy_api;
ALTER FUNCTION secretproxy.values_to_seal() OWNER TO secretproxy_api;
REVOKE ALL ON FUNCTION secretproxy.rotate_keyring(), secretproxy.reencrypt(pg_catalog.uuid, int, boolean), secretproxy.values_to_seal() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.reencrypt(pg_catalog.uuid, int, boolean), secretproxy.values_to_seal() TO secretproxy_keys;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('key_rotation', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
