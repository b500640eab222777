-- Deploy secretproxy:encrypt_fields to pg
-- requires: encrypted_secrets
-- The helper functions of the original module: names, parameters and results as there. They took column names as text and put them
-- into statements; here a column name is only ever compared. Those that touch a secret testify.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_set(secret_value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT convert_to(secret_value, getdatabaseencoding())
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_set(text) IS 'The bytes of a text';

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_bytea_to_text(secret_value bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT convert_from(secret_value, 'SQL_ASCII')
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_bytea_to_text(bytea) IS 'The text that encrypt_field_set made bytes of';

-- Trigger functions for a table with the columns field_name and encode_field.
CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_crypt() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    NEW.field_name = secretproxy.bcrypt(NEW.field_name::text, secretproxy.bcrypt_salt(6));
    RETURN NEW;
END
$body$;

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_pgp() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    NEW.field_name = secretproxy.pgp_encrypt_1(NEW.field_name::bytea, NEW.encode_field::text);
    RETURN NEW;
END
$body$;

-- One column of a row of the secrets table as text, by name.
CREATE OR REPLACE FUNCTION secretproxy.column_text(row_ secrets_schema.secrets_table, column_name text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $body$
BEGIN
    CASE lower(column_name)
        WHEN 'id' THEN RETURN row_.id::text;
        WHEN 'secrets_owned_field' THEN RETURN row_.secrets_owned_field::text;
        WHEN 'name' THEN RETURN row_.name;
        WHEN 'secrets_value_field' THEN RETURN row_.secrets_value_field::text;
        WHEN 'secrets_enc_field' THEN RETURN row_.secrets_enc_field;
        ELSE RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = 'this is not the name of a column of secrets_schema.secrets_table';
    END CASE;
END
$body$;
ALTER FUNCTION secretproxy.column_text(secrets_schema.secrets_table, text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.column_text(secrets_schema.secrets_table, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_pgp_get(secret_value bytea, secret_encode text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_owner uuid;
    v_name text;
BEGIN
    IF secret_encode ~ '^([0-9a-fA-F]{4}-?){8}$' THEN
        v_owner := secret_encode::uuid;
        SELECT t.name INTO v_name FROM secrets_schema.secrets_table t
         WHERE t.secrets_owned_field = v_owner AND t.secrets_value_field = secret_value LIMIT 1;
    END IF;
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(v_context, 'encrypted_secrets.encrypt_field_pgp_get(bytea,text)', 'read', v_owner,
                                CASE WHEN v_name IS NOT NULL THEN ARRAY[v_name] END, NULL);
    IF substr(secret_value, 1, 4) = decode('ff535032', 'hex') THEN
        IF v_name IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'this value is not one of this owner''s secrets',
                HINT = 'Values of format 2 are bound to their owner and name; use encrypted_secrets.secrets_getter.';
        END IF;
        RETURN secretproxy.server_text(secretproxy.open_value(v_context, v_owner, v_name, secret_value));
    END IF;
    RETURN secretproxy.server_text(secretproxy.pgp_decrypt_1(secret_value, secret_encode));
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_pgp_get(bytea, text) IS 'A stored pgp value, opened with its owner as text';

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_pgp_getter(
    secrets_owned_field uuid, secret_value_field text, secret_encode_field text
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_row secrets_schema.secrets_table;
    v_value bytea;
    v_key text;
BEGIN
    SELECT * INTO v_row FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = encrypt_field_pgp_getter.secrets_owned_field LIMIT 1;
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.encrypt_field_pgp_getter(uuid,text,text)', 'read', encrypt_field_pgp_getter.secrets_owned_field,
        CASE WHEN v_row.name IS NOT NULL THEN ARRAY[v_row.name] END, NULL);
    v_value := secretproxy.column_text(v_row, secret_value_field)::bytea;
    v_key := secretproxy.column_text(v_row, secret_encode_field);
    IF substr(v_value, 1, 4) = decode('ff535032', 'hex') THEN
        RETURN secretproxy.server_text(secretproxy.open_value(v_context, v_row.secrets_owned_field, v_row.name, v_value));
    END IF;
    RETURN secretproxy.server_text(secretproxy.pgp_decrypt_1(v_value, v_key));
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_pgp_getter(uuid, text, text) IS 'The pgp value of an owner that has one secret';

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_crypt_verify(
    secrets_owned_field uuid, secret_value_field text, secret_verify_value text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_row secrets_schema.secrets_table;
    v_stored bytea;
    v_hash text;
    v_cost int;
BEGIN
    SELECT * INTO v_row FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = encrypt_field_crypt_verify.secrets_owned_field LIMIT 1;
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.encrypt_field_crypt_verify(uuid,text,text)', 'verify', encrypt_field_crypt_verify.secrets_owned_field,
        CASE WHEN v_row.name IS NOT NULL THEN ARRAY[v_row.name] END, NULL);
    IF secretproxy.column_text(v_row, secret_value_field) IS NOT NULL AND lower(secret_value_field) = 'secrets_value_field' THEN
        v_stored := v_row.secrets_value_field;
        IF v_row.secrets_enc_field = 'crypt' THEN
            v_hash := secretproxy.server_text(secretproxy.password_text(v_stored));
        END IF;
    END IF;
    IF v_hash ~ '^[$]2[axy][$][0-9]{2}[$]' AND secret_verify_value IS NOT NULL THEN
        v_cost := substr(v_hash, 5, 2)::int;
        IF secretproxy.bcrypt(
            CASE WHEN substr(v_stored, 1, 4) = decode('ff535032', 'hex')
                 THEN encode(sha256(secretproxy.to_bytes(secret_verify_value)), 'hex')
                 ELSE chr(92) || 'x' || encode(secretproxy.server_bytes(secret_verify_value), 'hex') END, v_hash) = v_hash THEN
            RETURN true;
        END IF;
    END IF;
    PERFORM secretproxy.take_time(v_cost, v_context.crypt_cost);
    RETURN false;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_crypt_verify(uuid, text, text) IS 'Whether a password is the one of an owner that has one secret';

-- Sets columns of the owner's rows, or makes a row. Values are bound to their name, so a new name means sealing them again.
CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_table_upsert(secrets_owned_field uuid, data json) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_old secrets_schema.secrets_table;
    v_new secrets_schema.secrets_table;
    v_names text[];
    v_data jsonb := data::jsonb;
    v_value bytea;
BEGIN
    SELECT array_agg(t.name ORDER BY t.name) INTO v_names FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_table_upsert.secrets_owned_field;
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.secrets_table_upsert(uuid,json)', 'write', secrets_table_upsert.secrets_owned_field,
        CASE WHEN v_data ->> 'name' = ANY (v_names) OR v_data ->> 'name' IS NULL THEN v_names ELSE v_names || (v_data ->> 'name') END, NULL);

    IF jsonb_typeof(v_data) IS DISTINCT FROM 'object' OR v_data = '{}' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'data must be an object with names of columns as keys';
    END IF;
    IF v_data - ARRAY['id', 'secrets_owned_field', 'name', 'secrets_value_field', 'secrets_enc_field'] <> '{}' THEN
        RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = 'data names a column that secrets_schema.secrets_table does not have';
    END IF;
    IF coalesce(v_data ->> 'secrets_owned_field', secrets_table_upsert.secrets_owned_field::text) IS DISTINCT FROM secrets_table_upsert.secrets_owned_field::text THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a secret keeps its owner';
    END IF;
    v_value := secretproxy.server_bytes(v_data ->> 'secrets_value_field');

    IF v_names IS NULL THEN
        IF secrets_table_upsert.secrets_owned_field IS NULL OR v_data ->> 'name' IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
        END IF;
        INSERT INTO secrets_schema.secrets_table (id, secrets_owned_field, name, secrets_value_field, secrets_enc_field)
        VALUES (coalesce((v_data ->> 'id')::uuid, gen_random_uuid()), secrets_table_upsert.secrets_owned_field, v_data ->> 'name',
                v_value, v_data ->> 'secrets_enc_field');
        RETURN;
    END IF;
    FOR v_old IN SELECT * FROM secrets_schema.secrets_table t
                  WHERE t.secrets_owned_field = secrets_table_upsert.secrets_owned_field FOR UPDATE LOOP
        v_new := v_old;
        v_new.name := CASE WHEN v_data ? 'name' THEN v_data ->> 'name' ELSE v_old.name END;
        v_new.secrets_enc_field := CASE WHEN v_data ? 'secrets_enc_field' THEN v_data ->> 'secrets_enc_field' ELSE v_old.secrets_enc_field END;
        IF v_new.name IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
        END IF;
        IF v_data ? 'secrets_value_field' THEN
            v_new.secrets_value_field := v_value;
        ELSIF v_new.secrets_enc_field IS DISTINCT FROM v_old.secrets_enc_field AND v_old.secrets_enc_field = 'crypt' THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a password cannot be stored in another encoding without its value';
        ELSIF v_old.secrets_enc_field = 'pgp' AND (v_new.name <> v_old.name OR v_new.secrets_enc_field IS DISTINCT FROM 'pgp') THEN
            v_new.secrets_value_field := secretproxy.open_value(v_context, v_old.secrets_owned_field, v_old.name, v_old.secrets_value_field);
        END IF;
        IF v_new.secrets_value_field IS DISTINCT FROM v_old.secrets_value_field
           OR v_new.secrets_enc_field IS DISTINCT FROM v_old.secrets_enc_field THEN
            v_new.secrets_enc_field := CASE WHEN v_new.secrets_enc_field IN ('pgp', 'crypt') THEN v_new.secrets_enc_field ELSE 'none' END;
            IF NOT (v_new.secrets_enc_field = 'crypt' AND v_old.secrets_enc_field = 'crypt' AND NOT v_data ? 'secrets_value_field') THEN
                v_new.secrets_value_field := secretproxy.seal(
                    v_context, v_old.secrets_owned_field, v_new.name, v_new.secrets_value_field, v_new.secrets_enc_field);
            END IF;
        END IF;
        UPDATE secrets_schema.secrets_table t
           SET name = v_new.name, secrets_value_field = v_new.secrets_value_field, secrets_enc_field = v_new.secrets_enc_field
         WHERE t.id = v_old.id;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_table_upsert(uuid, json) IS 'Sets columns of an owner''s secrets by their names, or makes one';

DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'encrypt_field_set(text)', 'encrypt_field_bytea_to_text(bytea)', 'encrypt_field_crypt()', 'encrypt_field_pgp()',
        'encrypt_field_pgp_get(bytea,text)', 'encrypt_field_pgp_getter(uuid,text,text)', 'encrypt_field_crypt_verify(uuid,text,text)',
        'secrets_table_upsert(uuid,json)'] LOOP
        EXECUTE format('ALTER FUNCTION encrypted_secrets.%s OWNER TO secretproxy_owner', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION encrypted_secrets.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION encrypted_secrets.%s TO authenticated', v_function);
    END LOOP;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('encrypt_fields', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
