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
