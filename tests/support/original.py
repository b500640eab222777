"""Provides the original modules as their own tools deploy them: a change for each object, in the order of their plan.

Written from what the newest version does, for the tests that install over it. The newest id is uuidv7(), which
PostgreSQL has from version 18 on; before that a module of theirs makes it. Older deployments have uuid_generate_v4().
"""

from __future__ import annotations

from pathlib import Path

UUIDV7 = """
CREATE FUNCTION public.uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(overlay(uuid_send(gen_random_uuid())
                          PLACING substr(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 3) FROM 1 FOR 6), 'hex')::uuid
$$;
"""
TABLE = """
CREATE TABLE secrets_schema.secrets_table (
    id uuid PRIMARY KEY DEFAULT {default},
    secrets_owned_field uuid NOT NULL,
    name text NOT NULL,
    secrets_value_field bytea NULL,
    secrets_enc_field text NULL,
    UNIQUE (secrets_owned_field, name)
);
COMMENT ON TABLE secrets_schema.secrets_table IS 'Secrets by owner and name';
COMMENT ON COLUMN secrets_schema.secrets_table.name IS 'Unique for each owner';
"""
HASH_SECRETS = """
CREATE FUNCTION secrets_schema.tg_hash_secrets() RETURNS trigger AS $$
BEGIN
    CASE NEW.secrets_enc_field
        WHEN 'crypt' THEN
            NEW.secrets_value_field = crypt(NEW.secrets_value_field::text, gen_salt('bf'));
        WHEN 'pgp' THEN
            NEW.secrets_value_field = pgp_sym_encrypt(
                encode(NEW.secrets_value_field, 'hex'), NEW.secrets_owned_field::text, 'compress-algo=1, cipher-algo=aes256');
        ELSE
            NEW.secrets_enc_field = 'none';
    END CASE;
    RETURN NEW;
END;
$$ LANGUAGE plpgsql VOLATILE;
CREATE TRIGGER hash_secrets_update BEFORE UPDATE ON secrets_schema.secrets_table
    FOR EACH ROW WHEN (NEW.secrets_value_field IS DISTINCT FROM OLD.secrets_value_field)
    EXECUTE PROCEDURE secrets_schema.tg_hash_secrets();
CREATE TRIGGER hash_secrets_insert BEFORE INSERT ON secrets_schema.secrets_table
    FOR EACH ROW EXECUTE PROCEDURE secrets_schema.tg_hash_secrets();
"""
BYTEA_TO_TEXT = """
CREATE FUNCTION encrypted_secrets.encrypt_field_bytea_to_text(secret_value bytea) RETURNS text AS $$
    SELECT convert_from(secret_value, 'SQL_ASCII');
$$ LANGUAGE sql IMMUTABLE;
"""
CRYPT = """
CREATE FUNCTION encrypted_secrets.encrypt_field_crypt() RETURNS trigger AS $$
BEGIN
    NEW.field_name = crypt(NEW.field_name::text, gen_salt('bf'));
    RETURN NEW;
END;
$$ LANGUAGE plpgsql VOLATILE;
"""
CRYPT_VERIFY = """
CREATE FUNCTION encrypted_secrets.encrypt_field_crypt_verify(secrets_owned_field uuid, secret_value_field text, secret_verify_value text)
RETURNS bool AS $$
DECLARE
    found_row secrets_schema.secrets_table;
    stored text;
BEGIN
    SELECT * INTO found_row FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = encrypt_field_crypt_verify.secrets_owned_field;
    EXECUTE format('SELECT ($1).%s::text', secret_value_field) INTO stored USING found_row;
    RETURN stored = crypt(secret_verify_value, stored);
END;
$$ LANGUAGE plpgsql STABLE;
"""
PGP = """
CREATE FUNCTION encrypted_secrets.encrypt_field_pgp() RETURNS trigger AS $$
BEGIN
    NEW.field_name = pgp_sym_encrypt(
        encode(NEW.field_name::bytea, 'hex'), NEW.encode_field::text, 'compress-algo=1, cipher-algo=aes256');
    RETURN NEW;
END;
$$ LANGUAGE plpgsql VOLATILE;
"""
PGP_GET = """
CREATE FUNCTION encrypted_secrets.encrypt_field_pgp_get(secret_value bytea, secret_encode text) RETURNS text AS $$
    SELECT convert_from(decode(pgp_sym_decrypt(secret_value, secret_encode), 'hex'), 'SQL_ASCII');
$$ LANGUAGE sql;
"""
PGP_GETTER = """
CREATE FUNCTION encrypted_secrets.encrypt_field_pgp_getter(secrets_owned_field uuid, secret_value_field text, secret_encode_field text)
RETURNS text AS $$
DECLARE
    found_row secrets_schema.secrets_table;
    stored bytea;
    passphrase text;
BEGIN
    SELECT * INTO found_row FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = encrypt_field_pgp_getter.secrets_owned_field;
    EXECUTE format('SELECT ($1).%s::text', secret_value_field) INTO stored USING found_row;
    EXECUTE format('SELECT ($1).%s::text', secret_encode_field) INTO passphrase USING found_row;
    RETURN convert_from(decode(pgp_sym_decrypt(stored, passphrase), 'hex'), 'SQL_ASCII');
END;
$$ LANGUAGE plpgsql STABLE;
"""
SET = """
CREATE FUNCTION encrypted_secrets.encrypt_field_set(secret_value text) RETURNS bytea AS $$
    SELECT secret_value::bytea;
$$ LANGUAGE sql;
"""
GETTER = """
CREATE FUNCTION encrypted_secrets.secrets_getter(secrets_owned_field uuid, secret_name text, default_value text DEFAULT NULL)
RETURNS text AS $$
DECLARE
    secret secrets_schema.secrets_table;
BEGIN
    SELECT * INTO secret FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_getter.secrets_owned_field AND t.name = secret_name;
    IF NOT FOUND THEN
        RETURN default_value;
    END IF;
    IF secret.secrets_enc_field = 'pgp' THEN
        RETURN convert_from(decode(pgp_sym_decrypt(secret.secrets_value_field, secret.secrets_owned_field::text), 'hex'), 'SQL_ASCII');
    END IF;
    RETURN convert_from(secret.secrets_value_field, 'SQL_ASCII');
END
$$ LANGUAGE plpgsql STABLE;
"""
UPSERT = """
CREATE FUNCTION encrypted_secrets.secrets_upsert(
    v_secrets_owned_field uuid, secret_name text, secret_value text, field_encoding text DEFAULT 'pgp'
) RETURNS boolean AS $$
BEGIN
    INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
    VALUES (v_secrets_owned_field, secret_name, secret_value::bytea, field_encoding)
    ON CONFLICT (secrets_owned_field, name) DO UPDATE
       SET secrets_value_field = secrets_upsert.secret_value::bytea, secrets_enc_field = EXCLUDED.secrets_enc_field;
    RETURN TRUE;
END
$$ LANGUAGE plpgsql VOLATILE;
"""
VERIFY = """
CREATE FUNCTION encrypted_secrets.secrets_verify(secrets_owned_field uuid, secret_name text, secret_value text) RETURNS boolean AS $$
DECLARE
    given text := encrypted_secrets.secrets_getter(secrets_owned_field, secret_name);
    encoding text := (SELECT t.secrets_enc_field FROM secrets_schema.secrets_table t
                       WHERE t.secrets_owned_field = secrets_verify.secrets_owned_field AND t.name = secret_name);
BEGIN
    IF encoding = 'crypt' THEN
        RETURN given = crypt(secret_value::bytea::text, given);
    END IF;
    RETURN given = secret_value;
END
$$ LANGUAGE plpgsql STABLE;
"""
TABLE_UPSERT = """
CREATE FUNCTION encrypted_secrets.secrets_table_upsert(secrets_owned_field uuid, data json) RETURNS void AS $$
DECLARE
    statement text;
BEGIN
    IF EXISTS (SELECT FROM secrets_schema.secrets_table t WHERE t.secrets_owned_field = secrets_table_upsert.secrets_owned_field) THEN
        SELECT format('UPDATE secrets_schema.secrets_table SET %s WHERE secrets_owned_field = %L',
                      string_agg(key || '=' || quote_literal(value), ','), secrets_owned_field)
          INTO statement FROM json_each_text(data);
    ELSE
        SELECT format('INSERT INTO secrets_schema.secrets_table (secrets_owned_field, %s) VALUES (%L, %s)',
                      string_agg(key, ','), secrets_owned_field, string_agg(quote_literal(value), ','))
          INTO statement FROM json_each_text(data);
    END IF;
    EXECUTE statement;
END;
$$ LANGUAGE plpgsql VOLATILE;
"""
DELETE = """
CREATE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_name text) RETURNS void AS $$
BEGIN
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = secret_name;
END
$$ LANGUAGE plpgsql VOLATILE;
CREATE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_names text[]) RETURNS void AS $$
BEGIN
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field = secrets_delete.secrets_owned_field AND t.name = ANY (secret_names);
END
$$ LANGUAGE plpgsql VOLATILE;
"""
GRANTED = {
    "secrets_upsert": ["secrets_upsert(uuid, text, text, text)"],
    "secrets_verify": ["secrets_verify(uuid, text, text)"],
    "secrets_table_upsert": ["secrets_table_upsert(uuid, json)"],
    "secrets_delete": ["secrets_delete(uuid, text)", "secrets_delete(uuid, text[])"],
}
FUNCTIONS = {
    "encrypt_field_bytea_to_text": BYTEA_TO_TEXT, "encrypt_field_crypt": CRYPT, "encrypt_field_crypt_verify": CRYPT_VERIFY,
    "encrypt_field_pgp": PGP, "encrypt_field_pgp_get": PGP_GET, "encrypt_field_pgp_getter": PGP_GETTER, "encrypt_field_set": SET,
    "secrets_getter": GETTER, "secrets_upsert": UPSERT, "secrets_verify": VERIFY, "secrets_table_upsert": TABLE_UPSERT,
    "secrets_delete": DELETE,
}  # fmt: skip
# What their README has people add: a table of the log's short name, and a getter that writes it.
README = """
CREATE TABLE public.secret_access_log (
    id serial PRIMARY KEY, owner_id uuid, secret_name text, accessed_at timestamptz DEFAULT now(), accessed_by uuid
);
CREATE FUNCTION public.get_secret_with_audit(owner_id uuid, secret_name text) RETURNS text AS $$
DECLARE
    secret_value text := encrypted_secrets.secrets_getter(owner_id, secret_name);
BEGIN
    INSERT INTO public.secret_access_log (owner_id, secret_name, accessed_by)
    VALUES (owner_id, secret_name, nullif(current_setting('jwt.claims.user_id', true), '')::uuid);
    RETURN secret_value;
END
$$ LANGUAGE plpgsql;
"""


def changes(major: int, default: str = "uuidv7()", grants: bool = True, everywhere: bool = False) -> dict[str, str]:
    """Gives the changes of the modules by name, in order. Without `grants` nothing names the default roles.

    `everywhere`: the same changes on every version of PostgreSQL.
    """
    made = {"extensions": "CREATE EXTENSION IF NOT EXISTS pgcrypto;\n"}
    if default == "uuid_generate_v4()":
        made["extensions"] += 'CREATE EXTENSION IF NOT EXISTS "uuid-ossp";\n'
    elif default == "uuidv7()" and (major < 18 or everywhere):
        made["uuidv7"] = UUIDV7
    made["schemas/secrets_schema/schema"] = "CREATE SCHEMA secrets_schema;\n"
    made["schemas/secrets_schema/tables/secrets_table/table"] = TABLE.format(default=default)
    made["schemas/secrets_schema/tables/secrets_table/triggers/hash_secrets"] = HASH_SECRETS
    made["schemas/encrypted_secrets/schema"] = "CREATE SCHEMA encrypted_secrets;\n"
    for name, text in FUNCTIONS.items():
        if grants:
            text += "".join(
                f"GRANT EXECUTE ON FUNCTION encrypted_secrets.{it} TO authenticated;\n" for it in GRANTED.get(name, ())
            )
        made[f"schemas/encrypted_secrets/procedures/{name}"] = text
    return made


def script(major: int, default: str = "uuidv7()", grants: bool = True) -> str:
    """Gives all changes as one text."""
    return "\n".join(changes(major, default, grants).values())


def functions_again(grants: bool = True) -> str:
    """Gives the functions once more over existing ones, as a deployment of a newer version of the original does."""
    return "\n".join(
        text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION") for text in FUNCTIONS.values()
    ) + "".join(
        f"GRANT EXECUTE ON FUNCTION encrypted_secrets.{it} TO authenticated;\n"
        for its in GRANTED.values()
        if grants
        for it in its
    )


def write_project(directory: Path, major: int) -> None:
    """Writes the modules as a sqitch project, the layout that pgpm reads too; the same on every version of
    PostgreSQL."""
    plan = ["%syntax-version=1.0.0", "%project=encrypted-secrets", ""]
    (directory / "sqitch.conf").write_text("[core]\n\tengine = pg\n")
    for number, (name, text) in enumerate(changes(major, everywhere=True).items()):
        for kind, body in (("deploy", text), ("verify", "SELECT 1;")):
            target = directory / kind / f"{name}.sql"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(
                f"-- {kind.title()} {name}\n\nBEGIN;\n{body}\n{'COMMIT' if kind == 'deploy' else 'ROLLBACK'};\n"
            )
        plan.append(
            f"{name} 2025-01-01T00:00:{number:02d}Z authors <authors@example.invalid> # {name.rpartition('/')[2]}"
        )
    (directory / "sqitch.plan").write_text("\n".join(plan) + "\n")
