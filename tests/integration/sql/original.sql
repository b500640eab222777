-- What an installation of the original modules looks like to this one: its table, triggers, functions and grants.
CREATE EXTENSION IF NOT EXISTS pgcrypto;
CREATE SCHEMA secrets_schema;
CREATE SCHEMA encrypted_secrets;
GRANT USAGE ON SCHEMA encrypted_secrets, secrets_schema TO authenticated;

CREATE TABLE secrets_schema.secrets_table (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    secrets_owned_field uuid NOT NULL,
    name text NOT NULL,
    secrets_value_field bytea NULL,
    secrets_enc_field text NULL,
    UNIQUE (secrets_owned_field, name)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON secrets_schema.secrets_table TO authenticated;

CREATE FUNCTION secrets_schema.tg_hash_secrets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.secrets_enc_field = 'crypt' THEN
        NEW.secrets_value_field = crypt(NEW.secrets_value_field::text, gen_salt('bf'));
    ELSIF NEW.secrets_enc_field = 'pgp' THEN
        NEW.secrets_value_field = pgp_sym_encrypt(
            encode(NEW.secrets_value_field::bytea, 'hex'), NEW.secrets_owned_field::text, 'compress-algo=1, cipher-algo=aes256');
    ELSE
        NEW.secrets_enc_field = 'none';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hash_secrets_update BEFORE UPDATE ON secrets_schema.secrets_table FOR EACH ROW
    WHEN (NEW.secrets_value_field IS DISTINCT FROM OLD.secrets_value_field) EXECUTE PROCEDURE secrets_schema.tg_hash_secrets();
CREATE TRIGGER hash_secrets_insert BEFORE INSERT ON secrets_schema.secrets_table FOR EACH ROW
    EXECUTE PROCEDURE secrets_schema.tg_hash_secrets();

CREATE FUNCTION encrypted_secrets.secrets_getter(secrets_owned_field uuid, secret_name text, default_value text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_row secrets_schema.secrets_table;
BEGIN
    SELECT * INTO v_row FROM secrets_schema.secrets_table t
     WHERE t.name = secret_name AND t.secrets_owned_field = secrets_getter.secrets_owned_field;
    IF NOT FOUND THEN
        RETURN default_value;
    END IF;
    IF v_row.secrets_enc_field = 'crypt' THEN
        RETURN convert_from(v_row.secrets_value_field, 'SQL_ASCII');
    ELSIF v_row.secrets_enc_field = 'pgp' THEN
        RETURN convert_from(decode(pgp_sym_decrypt(v_row.secrets_value_field, v_row.secrets_owned_field::text), 'hex'), 'SQL_ASCII');
    END IF;
    RETURN convert_from(v_row.secrets_value_field, 'SQL_ASCII');
END $$;

CREATE FUNCTION encrypted_secrets.secrets_verify(secrets_owned_field uuid, secret_name text, secret_value text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_text text;
    v_row secrets_schema.secrets_table;
BEGIN
    SELECT * INTO v_row FROM secrets_schema.secrets_table t
     WHERE t.name = secret_name AND t.secrets_owned_field = secrets_verify.secrets_owned_field;
    v_text := encrypted_secrets.secrets_getter(secrets_verify.secrets_owned_field, secret_name);
    IF v_row.secrets_enc_field = 'crypt' THEN
        RETURN v_text = crypt(secret_value::bytea::text, v_text);
    END IF;
    RETURN v_text = secret_value;
END $$;

CREATE FUNCTION encrypted_secrets.secrets_upsert(
    v_secrets_owned_field uuid, secret_name text, secret_value text, field_encoding text DEFAULT 'pgp'
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
    VALUES (v_secrets_owned_field, secret_name, secret_value::bytea, field_encoding)
    ON CONFLICT (secrets_owned_field, name) DO UPDATE
       SET secrets_value_field = EXCLUDED.secrets_value_field, secrets_enc_field = EXCLUDED.secrets_enc_field;
    RETURN true;
END $$;

CREATE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_name text)
RETURNS void LANGUAGE sql VOLATILE AS $$
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = secret_name
$$;

CREATE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_names text[])
RETURNS void LANGUAGE sql VOLATILE AS $$
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = ANY (secret_names)
$$;
GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_upsert(uuid, text, text, text) TO authenticated;
GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_verify(uuid, text, text) TO authenticated;
GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_delete(uuid, text) TO authenticated;
GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_delete(uuid, text[]) TO authenticated;

-- An application's own view over it, which an installation must leave standing.
CREATE VIEW public.secret_names AS SELECT secrets_owned_field, name FROM secrets_schema.secrets_table;
