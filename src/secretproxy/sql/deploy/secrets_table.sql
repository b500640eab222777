-- Deploy secretproxy:secrets_table to pg
-- requires: schemas
-- requires: keyring
-- requires: crypto
-- The table of the original modules, adopted as it is where it exists. Values of format 2 begin with 0xFF 'SP2' and four bytes: the
-- version of the ring key (0: a password, which has none). Rows that are inserted directly are sealed by the triggers.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secrets_schema.secrets_table (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    secrets_owned_field uuid NOT NULL,
    name text NOT NULL,
    secrets_value_field bytea,
    secrets_enc_field text,
    UNIQUE (secrets_owned_field, name)
);
ALTER TABLE secrets_schema.secrets_table OWNER TO secretproxy_owner;

DO $do$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = 'secrets_schema.secrets_table'::regclass AND i.indisunique AND i.indpred IS NULL
          AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])) = ARRAY['name', 'secrets_owned_field']
    ) THEN
        ALTER TABLE secrets_schema.secrets_table ADD CONSTRAINT secrets_table_owner_name_key UNIQUE (secrets_owned_field, name);
    END IF;
END
$do$;
REVOKE ALL ON secrets_schema.secrets_table FROM PUBLIC;
-- Grants that were there stay, but for this one: the functions write as their owner, a trigger runs as whoever writes, and so whoever
-- may make triggers here could read the key ring.
DO $do$
DECLARE
    v_grantee text;
BEGIN
    FOR v_grantee IN SELECT pg_get_userbyid(x.grantee) FROM pg_class c, aclexplode(c.relacl) x
                      WHERE c.oid = 'secrets_schema.secrets_table'::regclass AND x.privilege_type = 'TRIGGER' AND x.grantee NOT IN (0, c.relowner) LOOP
        EXECUTE format('REVOKE TRIGGER ON secrets_schema.secrets_table FROM %I CASCADE', v_grantee);
    END LOOP;
END
$do$;

-- The hexadecimal passphrase of one value: HMAC-SHA256(ring key, owner and name).
CREATE OR REPLACE FUNCTION secretproxy.value_key(inner_pad bytea, outer_pad bytea, owner uuid, name text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN secretproxy.hmac(inner_pad, outer_pad, uuid_send(owner) || secretproxy.to_bytes(name));

CREATE OR REPLACE FUNCTION secretproxy.password_hash(value bytea, cost int) RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN decode('ff53503200000000', 'hex'::text)
    || convert_to(secretproxy.bcrypt(encode(sha256(value), 'hex'::text), secretproxy.bcrypt_salt(cost)), 'SQL_ASCII'::name);

-- The bcrypt hash of a stored password of either format.
CREATE OR REPLACE FUNCTION secretproxy.password_text(stored bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN substr(stored, 1, 4) = decode('ff535032', 'hex'::text) THEN substr(stored, 9) ELSE stored END;

-- Takes the time that is missing between one bcrypt of the cost `done` (NULL: none) and one of the cost `whole`: what was stored with
-- an older cost, or not as a password at all, must not answer sooner than a secret that is not there. 2^whole = 2^done + sum(2^k).
CREATE OR REPLACE FUNCTION secretproxy.take_time(done int, whole int) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $body$
DECLARE
    v_hash text;
BEGIN
    IF done IS NULL THEN
        v_hash := secretproxy.bcrypt('-', secretproxy.bcrypt_salt(whole));
        RETURN;
    END IF;
    FOR v_cost IN done..whole - 1 LOOP
        v_hash := secretproxy.bcrypt('-', secretproxy.bcrypt_salt(v_cost));
    END LOOP;
END
$body$;

-- `value` is in the database's encoding. Runs under the search_path of the function that calls it, as the next one does.
CREATE OR REPLACE FUNCTION secretproxy.seal(
    context secretproxy.context, owner uuid, name text, value bytea, field_encoding text
) RETURNS bytea
LANGUAGE plpgsql VOLATILE
AS $body$
BEGIN
    IF field_encoding = 'pgp' THEN
        RETURN context.ring_prefix || secretproxy.pgp_encrypt(
            secretproxy.server_to_utf8(value), secretproxy.value_key(context.ring_inner, context.ring_outer, owner, name));
    ELSIF field_encoding = 'crypt' THEN
        RETURN secretproxy.password_hash(secretproxy.server_to_utf8(value), context.crypt_cost);
    END IF;
    RETURN value;
END
$body$;

-- The bytes of a pgp value of either format, in the database's encoding.
CREATE OR REPLACE FUNCTION secretproxy.open_value(
    context secretproxy.context, owner uuid, name text, stored bytea
) RETURNS bytea
LANGUAGE plpgsql STABLE
AS $body$
DECLARE
    v_inner bytea := context.ring_inner;
    v_outer bytea := context.ring_outer;
BEGIN
    IF substr(stored, 1, 8) <> context.ring_prefix THEN
        IF substr(stored, 1, 4) <> decode('ff535032', 'hex') THEN
            RETURN secretproxy.pgp_decrypt_1(stored, owner::text);
        END IF;
        SELECT r.inner_pad, r.outer_pad INTO v_inner, v_outer
          FROM secretproxy.keyring r WHERE r.prefix = substr(stored, 1, 8);
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the key of this secret is not in secretproxy.keyring';
        END IF;
    END IF;
    RETURN secretproxy.utf8_to_server(
        secretproxy.pgp_decrypt(substr(stored, 9), secretproxy.value_key(v_inner, v_outer, owner, name)));
END
$body$;

-- Passwords of format 1 that a verify replaced by one of format 2, for a revert to put back. Whoever will not go back deletes its rows.
CREATE TABLE IF NOT EXISTS secretproxy.replaced_password (
    id uuid PRIMARY KEY REFERENCES secrets_schema.secrets_table (id) ON DELETE CASCADE,
    value bytea NOT NULL
);
ALTER TABLE secretproxy.replaced_password OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.replaced_password FROM PUBLIC;
COMMENT ON TABLE secretproxy.replaced_password IS 'Hashes of the original module that a successful verify replaced; only a revert reads them';

CREATE OR REPLACE FUNCTION secrets_schema.tg_hash_secrets() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM secretproxy.replaced_password p WHERE p.id = OLD.id;
    END IF;
    IF NEW.secrets_enc_field IN ('pgp', 'crypt') THEN
        IF substr(NEW.secrets_value_field, 1, 4) IS DISTINCT FROM decode('ff535032', 'hex') THEN -- not sealed yet
            SELECT * INTO v_context FROM secretproxy.context;
            NEW.secrets_value_field := secretproxy.seal(
                v_context, NEW.secrets_owned_field, NEW.name, NEW.secrets_value_field, NEW.secrets_enc_field);
        END IF;
    ELSE
        NEW.secrets_enc_field := 'none';
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION secrets_schema.tg_hash_secrets() IS 'Seals a value that is inserted or updated directly';

DO $do$
DECLARE
    v_function text;
    v_trigger name;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'secretproxy.value_key(bytea,bytea,uuid,text)', 'secretproxy.password_hash(bytea,int)', 'secretproxy.password_text(bytea)', 'secretproxy.take_time(int,int)',
        'secretproxy.seal(secretproxy.context,uuid,text,bytea,text)',
        'secretproxy.open_value(secretproxy.context,uuid,text,bytea)',
        'secrets_schema.tg_hash_secrets()'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO secretproxy_owner', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
    END LOOP;
    -- The original triggers call the function of the same name; where they are missing, ours take their place.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass
                   AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure AND tgtype & 4 <> 0) THEN
        CREATE TRIGGER hash_secrets_insert BEFORE INSERT ON secrets_schema.secrets_table
            FOR EACH ROW EXECUTE FUNCTION secrets_schema.tg_hash_secrets();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass
                   AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure AND tgtype & 16 <> 0) THEN
        CREATE TRIGGER hash_secrets_update BEFORE UPDATE ON secrets_schema.secrets_table
            FOR EACH ROW WHEN (NEW.secrets_value_field IS DISTINCT FROM OLD.secrets_value_field)
            EXECUTE FUNCTION secrets_schema.tg_hash_secrets();
    END IF;
    FOR v_function IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass
                         AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure AND tgenabled <> 'O' LOOP
        EXECUTE format('ALTER TABLE secrets_schema.secrets_table ENABLE TRIGGER %I', v_function);
    END LOOP;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('secrets_table', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
