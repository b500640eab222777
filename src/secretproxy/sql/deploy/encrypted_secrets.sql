-- Deploy secretproxy:encrypted_secrets to pg
-- requires: testimony
-- requires: secrets_table
-- requires: stored_secrets
-- The API of the original module: names, parameters, defaults and results as there. Every function testifies before it does anything, and
-- none of them touches a table: the keys' functions testify, seal and open, those of stored_secrets read and write.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_upsert(
    v_secrets_owned_field pg_catalog.uuid, secret_name pg_catalog.text, secret_value pg_catalog.text, field_encoding pg_catalog.text DEFAULT 'pgp'
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
BEGIN
    PERFORM secretproxy.begin_call(
        'encrypted_secrets.secrets_upsert(uuid,text,text,text)', 'write', v_secrets_owned_field, ARRAY[secret_name], field_encoding);
    IF (field_encoding OPERATOR(pg_catalog.=) ANY (ARRAY['pgp', 'crypt', 'none'])) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'field_encoding must be pgp, crypt or none';
    END IF;
    IF v_secrets_owned_field IS NULL OR secret_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
    END IF;
    PERFORM secretproxy.store_secret(
        v_secrets_owned_field, secret_name,
        secretproxy.seal_secret(v_secrets_owned_field, secret_name, pg_catalog.convert_to(secret_value, pg_catalog.getdatabaseencoding()), field_encoding),
        field_encoding);
    RETURN true;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_upsert(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.text) IS 'Stores a secret: pgp (can be read again), crypt (can only be verified) or none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_getter(
    secrets_owned_field pg_catalog.uuid, secret_name pg_catalog.text, default_value pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN secretproxy.read_secret(
        secrets_owned_field, secret_name, default_value, secretproxy.stored_secret(secrets_owned_field, secret_name));
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_getter(pg_catalog.uuid, pg_catalog.text, pg_catalog.text) IS 'A secret, or the default where there is none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_verify(
    secrets_owned_field pg_catalog.uuid, secret_name pg_catalog.text, secret_value pg_catalog.text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_stored pg_catalog.bytea := secretproxy.stored_secret(secrets_owned_field, secret_name);
    v_better pg_catalog.bytea := secretproxy.verify_secret(secrets_owned_field, secret_name, secret_value, v_stored);
BEGIN
    IF v_better IS NULL THEN
        RETURN false;
    END IF;
    IF pg_catalog.octet_length(v_better) OPERATOR(pg_catalog.>) 0 AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off' THEN
        PERFORM secretproxy.replace_password(secrets_owned_field, secret_name, pg_catalog.substr(v_stored, 2), v_better);
    END IF;
    RETURN true;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_verify(pg_catalog.uuid, pg_catalog.text, pg_catalog.text) IS 'Whether a value is the stored one; false where there is none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field pg_catalog.uuid, secret_name pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
BEGIN
    PERFORM secretproxy.begin_call(
        'encrypted_secrets.secrets_delete(uuid,text)', 'delete', secrets_owned_field, ARRAY[secret_name], NULL);
    PERFORM secretproxy.delete_secrets(secrets_owned_field, ARRAY[secret_name]);
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_delete(pg_catalog.uuid, pg_catalog.text) IS 'Deletes one secret';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field pg_catalog.uuid, secret_names pg_catalog.text[]) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
BEGIN
    PERFORM secretproxy.begin_call(
        'encrypted_secrets.secrets_delete(uuid,text[])', 'delete', secrets_owned_field, secret_names, NULL);
    PERFORM secretproxy.delete_secrets(secrets_owned_field, secret_names);
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_delete(pg_catalog.uuid, pg_catalog.text[]) IS 'Deletes several secrets';

DO $do$
DECLARE
    v_function pg_catalog.text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'secrets_upsert(uuid,text,text,text)', 'secrets_getter(uuid,text,text)', 'secrets_verify(uuid,text,text)',
        'secrets_delete(uuid,text)', 'secrets_delete(uuid,text[])'] LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION encrypted_secrets.%s OWNER TO secretproxy_api', v_function);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION encrypted_secrets.%s FROM PUBLIC', v_function);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION encrypted_secrets.%s TO authenticated', v_function);
    END LOOP;
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('encrypted_secrets', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
