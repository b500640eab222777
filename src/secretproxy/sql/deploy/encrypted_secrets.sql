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
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
BEGIN
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.secrets_upsert(uuid,text,text,text)', 'write', v_secrets_owned_field, ARRAY[secret_name], field_encoding);
    IF field_encoding IS NULL OR field_encoding NOT IN ('pgp', 'crypt', 'none') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'field_encoding must be pgp, crypt or none';
    END IF;
    IF v_secrets_owned_field IS NULL OR secret_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004', MESSAGE = 'a secret needs an owner and a name';
    END IF;
    INSERT INTO secrets_schema.secrets_table AS t (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
    VALUES (v_secrets_owned_field, secret_name,
            secretproxy.seal(v_context, v_secrets_owned_field, secret_name, secretproxy.server_bytes(secret_value), field_encoding),
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
    v_inner bytea;
    v_outer bytea;
    v_key text;
    v_charset name;
    v_stored bytea;
    v_kind text;
    v_missing boolean;
    v_usual boolean;
    v_message bytea;
BEGIN
    -- One look-up for the keys, the secret and what the testimony says: each function, each expression and each statement more is paid
    -- for, most of it before it runs. format() looks an output function up once for each change of type, so what is of one type stands together.
    SELECT c.testimony_inner, c.testimony_outer, c.charset, t.secrets_value_field, t.secrets_enc_field, t.id IS NULL,
           secretproxy.planned_session() IS NOT NULL AND c.owner_check = 'off'
               AND t.secrets_enc_field = 'pgp' AND substr(t.secrets_value_field, 1, 8) = c.ring_prefix,
           encode(sha256(c.ring_outer || sha256(
               c.ring_inner || uuid_send(secrets_getter.secrets_owned_field) || convert_to(secret_name, c.charset))), 'hex'),
           convert_to(format('SPX2 %1$s %2$s %3$s encrypted_secrets.secrets_getter(uuid,text,text) %4$s %5$s %6$L %7$L %8$L',
               c.testimony_version, secretproxy.planned_session(), encode(timestamptz_send(clock_timestamp()), 'hex'),
               secrets_getter.secrets_owned_field, secretproxy.jwt_user(), secret_name, session_user, current_setting('role')), c.charset)
      INTO v_inner, v_outer, v_charset, v_stored, v_kind, v_missing, v_usual, v_key, v_message
      FROM secretproxy.context c
      LEFT JOIN secrets_schema.secrets_table t
             ON t.secrets_owned_field = secrets_getter.secrets_owned_field AND t.name = secret_name;
    IF v_usual THEN
        RAISE INFO SQLSTATE 'SPX01' USING MESSAGE = encode(v_message || sha256(v_outer || sha256(v_inner || v_message)), 'hex');
        RETURN convert_from(secretproxy.pgp_decrypt(substr(v_stored, 9), v_key), v_charset);
    END IF;
    PERFORM secretproxy.testify(
        c, 'encrypted_secrets.secrets_getter(uuid,text,text)', 'read', secrets_getter.secrets_owned_field, ARRAY[secret_name], NULL)
       FROM secretproxy.context c;
    IF v_missing THEN
        RETURN default_value;
    ELSIF v_kind = 'pgp' THEN
        RETURN secretproxy.server_text(secretproxy.open_value(c, secrets_getter.secrets_owned_field, secret_name, v_stored))
          FROM secretproxy.context c;
    ELSIF v_kind = 'crypt' THEN
        RETURN secretproxy.server_text(secretproxy.password_text(v_stored));
    END IF;
    RETURN secretproxy.server_text(v_stored);
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) IS 'A secret, or the default where there is none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_verify(
    secrets_owned_field uuid, secret_name text, secret_value text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_id uuid;
    v_stored bytea;
    v_encoding text;
    v_hash text;
    v_cost int;
    v_right boolean;
BEGIN
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.secrets_verify(uuid,text,text)', 'verify', secrets_verify.secrets_owned_field, ARRAY[secret_name], NULL);
    SELECT t.id, t.secrets_value_field, t.secrets_enc_field INTO v_id, v_stored, v_encoding
      FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_verify.secrets_owned_field AND t.name = secret_name;
    IF v_encoding = 'crypt' THEN
        v_hash := secretproxy.server_text(secretproxy.password_text(v_stored));
        IF v_hash !~ '^[$]2[axy][$][0-9]{2}[$]' THEN
            v_right := false; -- written past the functions; not a bcrypt hash
        ELSIF substr(v_stored, 1, 4) <> decode('ff535032', 'hex') THEN
            -- Format 1: bcrypt over the text form of the bytes.
            v_cost := substr(v_hash, 5, 2)::int;
            v_right := secretproxy.bcrypt(chr(92) || 'x' || encode(secretproxy.server_bytes(secret_value), 'hex'), v_hash) = v_hash;
            IF v_right AND current_setting('transaction_read_only') = 'off' THEN
                UPDATE secrets_schema.secrets_table t
                   SET secrets_value_field = secretproxy.password_hash(secretproxy.to_bytes(secret_value), v_context.crypt_cost)
                 WHERE t.id = v_id AND t.secrets_value_field = v_stored;
                IF FOUND THEN
                    INSERT INTO secretproxy.replaced_password (id, value) VALUES (v_id, v_stored) ON CONFLICT DO NOTHING;
                END IF;
            END IF;
        ELSE
            v_cost := substr(v_hash, 5, 2)::int;
            v_right := secretproxy.bcrypt(encode(sha256(secretproxy.to_bytes(secret_value)), 'hex'), v_hash) = v_hash;
        END IF;
    ELSIF v_encoding = 'pgp' THEN
        v_right := secretproxy.open_value(v_context, secrets_verify.secrets_owned_field, secret_name, v_stored)
                   = secretproxy.server_bytes(secret_value);
    ELSE
        v_right := v_stored = secretproxy.server_bytes(secret_value);
    END IF;
    IF v_right THEN
        RETURN true;
    END IF;
    -- Nothing there, a wrong password and a wrong value all take one bcrypt of the cost that passwords are stored with.
    PERFORM secretproxy.take_time(CASE WHEN secret_value IS NOT NULL THEN v_cost END, v_context.crypt_cost);
    RETURN false;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_verify(uuid, text, text) IS 'Whether a value is the stored one; false where there is none';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
BEGIN
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.secrets_delete(uuid,text)', 'delete', secrets_delete.secrets_owned_field, ARRAY[secret_name], NULL);
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = secret_name;
END
$body$;
COMMENT ON FUNCTION encrypted_secrets.secrets_delete(uuid, text) IS 'Deletes one secret';

CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_names text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
BEGIN
    SELECT * INTO v_context FROM secretproxy.context;
    PERFORM secretproxy.testify(
        v_context, 'encrypted_secrets.secrets_delete(uuid,text[])', 'delete', secrets_delete.secrets_owned_field, secret_names, NULL);
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
