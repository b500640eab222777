-- Deploy secretproxy:encrypt_fields to pg
-- requires: encrypted_secrets
-- The helper functions of the original module: names, parameters and results as there. They took column names as text and put them
-- into statements; here a column name is only ever compared. Those that touch a secret testify.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_set(secret_value pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT pg_catalog.convert_to(secret_value, pg_catalog.getdatabaseencoding())
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_set(pg_catalog.text) IS 'The bytes of a text';

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_bytea_to_text(secret_value pg_catalog.bytea) RETURNS pg_catalog.text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT pg_catalog.convert_from(secret_value, 'SQL_ASCII')
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_bytea_to_text(pg_catalog.bytea) IS 'The text that encrypt_field_set made bytes of';

-- Trigger functions for a table with the columns field_name and encode_field. Of what types these are is the table's owner's to choose, and
-- with the type comes the cast: they run as whoever writes, and need no key.
CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_crypt() RETURNS pg_catalog.trigger
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    NEW.field_name := secretproxy.bcrypt(NEW.field_name::pg_catalog.text, secretproxy.bcrypt_salt(6));
    RETURN NEW;
END
$body$;

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_pgp() RETURNS pg_catalog.trigger
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    NEW.field_name := secretproxy.pgp_encrypt_1(NEW.field_name::pg_catalog.bytea, NEW.encode_field::pg_catalog.text);
    RETURN NEW;
END
$body$;

-- One column of a row of the secrets table as text, by name.
CREATE OR REPLACE FUNCTION secretproxy.column_text(
    secret pg_catalog.uuid, owner pg_catalog.uuid, name pg_catalog.text, stored pg_catalog.bytea, encoding pg_catalog.text, column_name pg_catalog.text
) RETURNS pg_catalog.text
LANGUAGE plpgsql IMMUTABLE
AS $body$
DECLARE
    v_column pg_catalog.text := pg_catalog.lower(column_name);
BEGIN
    IF v_column OPERATOR(pg_catalog.=) 'id' THEN
        RETURN secret::pg_catalog.text;
    ELSIF v_column OPERATOR(pg_catalog.=) 'secrets_owned_field' THEN
        RETURN owner::pg_catalog.text;
    ELSIF v_column OPERATOR(pg_catalog.=) 'name' THEN
        RETURN name;
    ELSIF v_column OPERATOR(pg_catalog.=) 'secrets_value_field' THEN
        RETURN stored::pg_catalog.text;
    ELSIF v_column OPERATOR(pg_catalog.=) 'secrets_enc_field' THEN
        RETURN encoding;
    END IF;
    RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = 'this is not the name of a column of secrets_schema.secrets_table';
END
$body$;
ALTER FUNCTION secretproxy.column_text(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text, pg_catalog.text) OWNER TO secretproxy_api;
REVOKE ALL ON FUNCTION secretproxy.column_text(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_pgp_get(secret_value pg_catalog.bytea, secret_encode pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_owner pg_catalog.uuid;
    v_name pg_catalog.text;
BEGIN
    IF secret_encode OPERATOR(pg_catalog.~) '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$' THEN
        v_owner := secret_encode::pg_catalog.uuid;
        v_name := secretproxy.name_of(v_owner, secret_value);
    END IF;
    PERFORM secretproxy.begin_call('encrypted_secrets.encrypt_field_pgp_get(bytea,text)', 'read', v_owner,
                                   CASE WHEN v_name IS NOT NULL THEN ARRAY[v_name] END, NULL);
    IF pg_catalog.substr(secret_value, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex') THEN
        IF v_name IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'this value is not one of this owner''s secrets',
                HINT = 'Values of format 2 are bound to their owner and name; use encrypted_secrets.secrets_getter.';
        END IF;
        RETURN pg_catalog.convert_from(secretproxy.open_secret(v_owner, v_name, secret_value), 'SQL_ASCII');
    END IF;
    RETURN pg_catalog.convert_from(secretproxy.pgp_decrypt_1(secret_value, secret_encode), 'SQL_ASCII');
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_pgp_get(pg_catalog.bytea, pg_catalog.text) IS 'A stored pgp value, opened with its owner as text';

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_pgp_getter(
    secrets_owned_field pg_catalog.uuid, secret_value_field pg_catalog.text, secret_encode_field pg_catalog.text
) RETURNS pg_catalog.text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_id pg_catalog.uuid;
    v_name pg_catalog.text;
    v_stored pg_catalog.bytea;
    v_encoding pg_catalog.text;
    v_value pg_catalog.bytea;
    v_key pg_catalog.text;
BEGIN
    SELECT s.id, s.name, s.stored, s.encoding INTO v_id, v_name, v_stored, v_encoding FROM secretproxy.first_secret(secrets_owned_field) s;
    PERFORM secretproxy.begin_call(
        'encrypted_secrets.encrypt_field_pgp_getter(uuid,text,text)', 'read', secrets_owned_field,
        CASE WHEN v_name IS NOT NULL THEN ARRAY[v_name] END, NULL);
    v_value := secretproxy.column_text(
        v_id, CASE WHEN v_id IS NOT NULL THEN secrets_owned_field END, v_name, v_stored, v_encoding, secret_value_field)::pg_catalog.bytea;
    v_key := secretproxy.column_text(
        v_id, CASE WHEN v_id IS NOT NULL THEN secrets_owned_field END, v_name, v_stored, v_encoding, secret_encode_field);
    IF pg_catalog.substr(v_value, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex') THEN
        RETURN pg_catalog.convert_from(secretproxy.open_secret(secrets_owned_field, v_name, v_value), 'SQL_ASCII');
    END IF;
    RETURN pg_catalog.convert_from(secretproxy.pgp_decrypt_1(v_value, v_key), 'SQL_ASCII');
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_pgp_getter(pg_catalog.uuid, pg_catalog.text, pg_catalog.text) IS 'The pgp value of an owner that has one secret';

CREATE OR REPLACE FUNCTION encrypted_secrets.encrypt_field_crypt_verify(
    secrets_owned_field pg_catalog.uuid, secret_value_field pg_catalog.text, secret_verify_value pg_catalog.text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_id pg_catalog.uuid;
    v_name pg_catalog.text;
    v_stored pg_catalog.bytea;
    v_encoding pg_catalog.text;
    v_given pg_catalog.bytea;
BEGIN
    SELECT s.id, s.name, s.stored, s.encoding INTO v_id, v_name, v_stored, v_encoding FROM secretproxy.first_secret(secrets_owned_field) s;
    PERFORM secretproxy.begin_call(
        'encrypted_secrets.encrypt_field_crypt_verify(uuid,text,text)', 'verify', secrets_owned_field,
        CASE WHEN v_name IS NOT NULL THEN ARRAY[v_name] END, NULL);
    -- Only a password of this column can be the right one; a name of no column is an error.
    IF secretproxy.column_text(v_id, secrets_owned_field, v_name, v_stored, v_encoding, secret_value_field) IS NOT NULL
       AND pg_catalog.lower(secret_value_field) OPERATOR(pg_catalog.=) 'secrets_value_field' AND v_encoding OPERATOR(pg_catalog.=) 'crypt' THEN
        v_given := pg_catalog.decode('63', 'hex') OPERATOR(pg_catalog.||) v_stored;
    END IF;
    RETURN secretproxy.check_secret(secrets_owned_field, v_name, secret_verify_value, v_given) IS NOT NULL;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.encrypt_field_crypt_verify(pg_catalog.uuid, pg_catalog.text, pg_catalog.text) IS 'Whether a password is the one of an owner that has one secret';

-- Sets columns of the owner's rows, or makes a row. Values are bound to their name, so a new name means sealing them again.
CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_table_upsert(secrets_owned_field pg_catalog.uuid, data pg_catalog.json) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_data pg_catalog.jsonb := data::pg_catalog.jsonb;
    v_names pg_catalog.text[] := secretproxy.names_of(secrets_owned_field);
    v_given_name pg_catalog.text := v_data OPERATOR(pg_catalog.->>) 'name'::pg_catalog.text;
    v_value pg_catalog.bytea;
    v_id pg_catalog.uuid;
    v_old_name pg_catalog.text;
    v_old_value pg_catalog.bytea;
    v_old_encoding pg_catalog.text;
    v_name pg_catalog.text;
    v_new_value pg_catalog.bytea;
    v_encoding pg_catalog.text;
BEGIN
    PERFORM secretproxy.begin_call(
        'encrypted_secrets.secrets_table_upsert(uuid,json)', 'write', secrets_owned_field,
        CASE WHEN v_given_name OPERATOR(pg_catalog.=) ANY (v_names) OR v_given_name IS NULL THEN v_names ELSE pg_catalog.array_append(v_names, v_given_name) END, NULL);

    IF (pg_catalog.jsonb_typeof(v_data) OPERATOR(pg_catalog.=) 'object') IS NOT TRUE OR v_data OPERATOR(pg_catalog.=) '{}'::pg_catalog.jsonb THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'data must be an object with names of columns as keys';
    END IF;
    IF (v_data OPERATOR(pg_catalog.-) ARRAY['id', 'secrets_owned_field', 'name', 'secrets_value_field', 'secrets_enc_field']::pg_catalog.text[]) OPERATOR(pg_catalog.<>) '{}'::pg_catalog.jsonb THEN
        RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = 'data names a column that secrets_schema.secrets_table does not have';
    END IF;
    IF coalesce(v_data OPERATOR(pg_catalog.->>) 'secrets_owned_field'::pg_catalog.text, secrets_owned_field::pg_catalog.text) OPERATOR(pg_catalog.<>) pg_catalog.concat(secrets_owned_field) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a secret keeps its owner';
    END IF;
    v_value := pg_catalog.convert_to(v_data OPERATOR(pg_catalog.->>) 'secrets_value_field'::pg_catalog.text, pg_catalog.getdatabaseencoding());

    IF v_names IS NULL THEN
        IF secrets_owned_field IS NULL OR v_given_name IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
        END IF;
        v_encoding := v_data OPERATOR(pg_catalog.->>) 'secrets_enc_field'::pg_catalog.text;
        v_encoding := CASE WHEN v_encoding OPERATOR(pg_catalog.=) ANY (ARRAY['pgp', 'crypt']) THEN v_encoding ELSE 'none' END;
        PERFORM secretproxy.add_row(
            (v_data OPERATOR(pg_catalog.->>) 'id'::pg_catalog.text)::pg_catalog.uuid, secrets_owned_field, v_given_name,
            secretproxy.seal_secret(secrets_owned_field, v_given_name, v_value, v_encoding), v_encoding);
        RETURN;
    END IF;
    FOR v_id, v_old_name, v_old_value, v_old_encoding IN
        SELECT s.id, s.name, s.stored, s.encoding FROM secretproxy.secrets_of(secrets_owned_field) s
    LOOP
        IF (v_old_name OPERATOR(pg_catalog.=) ANY (v_names)) IS NOT TRUE THEN
            -- Somebody added it, or gave it its name, after the names were read that the testimony has.
            RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'secrets of this owner were changed meanwhile', HINT = 'Try again.';
        END IF;
        v_name := CASE WHEN v_data OPERATOR(pg_catalog.?) 'name'::pg_catalog.text THEN v_given_name ELSE v_old_name END;
        v_encoding := CASE WHEN v_data OPERATOR(pg_catalog.?) 'secrets_enc_field'::pg_catalog.text THEN v_data OPERATOR(pg_catalog.->>) 'secrets_enc_field'::pg_catalog.text ELSE v_old_encoding END;
        v_encoding := CASE WHEN v_encoding OPERATOR(pg_catalog.=) ANY (ARRAY['pgp', 'crypt']) THEN v_encoding
                           WHEN coalesce(v_encoding, '') OPERATOR(pg_catalog.=) coalesce(v_old_encoding, '') THEN v_encoding ELSE 'none' END;
        v_new_value := v_old_value;
        IF v_name IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
        END IF;
        IF v_data OPERATOR(pg_catalog.?) 'secrets_value_field'::pg_catalog.text THEN
            v_encoding := CASE WHEN v_encoding OPERATOR(pg_catalog.=) ANY (ARRAY['pgp', 'crypt']) THEN v_encoding ELSE 'none' END;
            v_new_value := secretproxy.seal_secret(secrets_owned_field, v_name, v_value, v_encoding);
        ELSIF coalesce(v_encoding, '') OPERATOR(pg_catalog.<>) coalesce(v_old_encoding, '') AND v_old_encoding OPERATOR(pg_catalog.=) 'crypt' THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'a password cannot be stored in another encoding without its value';
        ELSIF v_old_encoding OPERATOR(pg_catalog.=) 'pgp' AND (v_name OPERATOR(pg_catalog.<>) v_old_name OR coalesce(v_encoding, '') OPERATOR(pg_catalog.<>) 'pgp') THEN
            v_new_value := secretproxy.seal_secret(
                secrets_owned_field, v_name, secretproxy.open_secret(secrets_owned_field, v_old_name, v_old_value), v_encoding);
        ELSIF coalesce(v_encoding, '') OPERATOR(pg_catalog.<>) coalesce(v_old_encoding, '') THEN
            v_new_value := secretproxy.seal_secret(secrets_owned_field, v_name, v_old_value, v_encoding);
        END IF;
        PERFORM secretproxy.set_row(v_id, v_name, v_new_value, v_encoding);
    END LOOP;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_table_upsert(pg_catalog.uuid, pg_catalog.json) IS 'Sets columns of an owner''s secrets by their names, or makes one';

DO $do$
DECLARE
    v_function pg_catalog.text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'encrypt_field_set(text)', 'encrypt_field_bytea_to_text(bytea)', 'encrypt_field_crypt()', 'encrypt_field_pgp()',
        'encrypt_field_pgp_get(bytea,text)', 'encrypt_field_pgp_getter(uuid,text,text)', 'encrypt_field_crypt_verify(uuid,text,text)',
        'secrets_table_upsert(uuid,json)'] LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION encrypted_secrets.%s OWNER TO secretproxy_api', v_function);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION encrypted_secrets.%s FROM PUBLIC', v_function);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION encrypted_secrets.%s TO authenticated', v_function);
    END LOOP;
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('encrypt_fields', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
