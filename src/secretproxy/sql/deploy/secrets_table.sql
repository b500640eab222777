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
    id pg_catalog.uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    secrets_owned_field pg_catalog.uuid NOT NULL,
    name pg_catalog.text NOT NULL,
    secrets_value_field pg_catalog.bytea,
    secrets_enc_field pg_catalog.text,
    UNIQUE (secrets_owned_field, name)
);
-- Another type could bring casts, operators and output functions of its own to wherever the table is read.
DO $do$
DECLARE
    v_wrong pg_catalog.text;
BEGIN
    IF (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass) OPERATOR(pg_catalog.<>) 'r'::pg_catalog."char" THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = 'secrets_schema.secrets_table is not a plain table', HINT = 'Partitioned and foreign tables and views are not adopted.';
    END IF;
    SELECT pg_catalog.string_agg(pg_catalog.concat(w.name, ' ', w.type), ', ' ORDER BY w.name) INTO v_wrong
      FROM (VALUES ('id', 'uuid'), ('secrets_owned_field', 'uuid'), ('name', 'text'), ('secrets_value_field', 'bytea'), ('secrets_enc_field', 'text'))
           w (name, type)
     WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
         WHERE a.attrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass AND a.attname OPERATOR(pg_catalog.=) w.name::pg_catalog.name AND NOT a.attisdropped
           AND t.typname OPERATOR(pg_catalog.=) w.type::pg_catalog.name AND t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace AND a.attgenerated OPERATOR(pg_catalog.=) ''::pg_catalog."char");
    IF v_wrong IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42804',
            MESSAGE = pg_catalog.concat('secrets_schema.secrets_table must have the columns (and no generated ones for) ', v_wrong),
            HINT = 'ALTER TABLE secrets_schema.secrets_table ALTER COLUMN ... TYPE ... before secretproxy install.';
    END IF;
END
$do$;
ALTER TABLE secrets_schema.secrets_table OWNER TO secretproxy_tables;

DO $do$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass AND i.indisunique AND i.indpred IS NULL
          AND (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attname) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[])) OPERATOR(pg_catalog.=) ARRAY['name', 'secrets_owned_field']
    ) THEN
        ALTER TABLE secrets_schema.secrets_table ADD CONSTRAINT secrets_table_owner_name_key UNIQUE (secrets_owned_field, name);
    END IF;
END
$do$;
REVOKE ALL ON secrets_schema.secrets_table FROM PUBLIC;
-- Grants that were there stay, but for these two: a trigger runs as whoever writes, and so, before PostgreSQL 18, does one on a table whose
-- foreign key cascades. Whoever may make either would have its code run as secretproxy_tables.
DO $do$
DECLARE
    v_grant pg_catalog.record;
BEGIN
    FOR v_grant IN
        SELECT DISTINCT CASE WHEN x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS who, x.privilege_type AS what, x.col
          FROM (SELECT a.grantee, a.privilege_type, NULL::pg_catalog.text AS col, c.relowner
                  FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a WHERE c.oid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass
                UNION ALL
                SELECT a.grantee, a.privilege_type, pg_catalog.quote_ident(t.attname), c.relowner
                  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute t ON t.attrelid OPERATOR(pg_catalog.=) c.oid, LATERAL pg_catalog.aclexplode(t.attacl) a
                 WHERE c.oid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass) x
         WHERE x.privilege_type OPERATOR(pg_catalog.=) ANY (ARRAY['TRIGGER', 'REFERENCES']) AND x.grantee OPERATOR(pg_catalog.<>) x.relowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s %s ON secrets_schema.secrets_table FROM %s CASCADE',
                        v_grant.what, CASE WHEN v_grant.col IS NOT NULL THEN pg_catalog.concat('(', v_grant.col, ')') ELSE '' END, v_grant.who);
    END LOOP;
END
$do$;

-- The hexadecimal passphrase of one value: HMAC-SHA256(ring key, owner and name).
CREATE OR REPLACE FUNCTION secretproxy.value_key(inner_pad pg_catalog.bytea, outer_pad pg_catalog.bytea, owner pg_catalog.uuid, name pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN secretproxy.hmac(inner_pad, outer_pad, pg_catalog.uuid_send(owner) OPERATOR(pg_catalog.||) secretproxy.to_bytes(name));

CREATE OR REPLACE FUNCTION secretproxy.password_hash(value pg_catalog.bytea, cost int) RETURNS pg_catalog.bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pg_catalog.decode('ff53503200000000', 'hex'::pg_catalog.text)
    OPERATOR(pg_catalog.||) pg_catalog.convert_to(secretproxy.bcrypt(pg_catalog.encode(pg_catalog.sha256(value), 'hex'::pg_catalog.text), secretproxy.bcrypt_salt(cost)), 'SQL_ASCII'::pg_catalog.name);

-- The bcrypt hash of a stored password of either format.
CREATE OR REPLACE FUNCTION secretproxy.password_text(stored pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.substr(stored, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex'::pg_catalog.text) THEN pg_catalog.substr(stored, 9) ELSE stored END;

-- Takes the time that is missing between one bcrypt of the cost `done` (NULL: none) and one of the cost `whole`: what was stored with
-- an older cost, or not as a password at all, must not answer sooner than a secret that is not there. 2^whole = 2^done + sum(2^k).
CREATE OR REPLACE FUNCTION secretproxy.take_time(done int, whole int) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE
AS $body$
DECLARE
    v_hash pg_catalog.text;
BEGIN
    IF done IS NULL THEN
        v_hash := secretproxy.bcrypt('-'::pg_catalog.text, secretproxy.bcrypt_salt(whole));
        RETURN;
    END IF;
    FOR v_cost IN done..whole OPERATOR(pg_catalog.-) 1 LOOP
        v_hash := secretproxy.bcrypt('-'::pg_catalog.text, secretproxy.bcrypt_salt(v_cost));
    END LOOP;
END
$body$;

-- `value` is in the database's encoding. Runs under the search_path of the function that calls it, as the next one does. With
-- write_format = 1 the value is one of format 1 behind eight bytes that tell the trigger so; the trigger takes them off.
CREATE OR REPLACE FUNCTION secretproxy.seal(
    context secretproxy.context, owner pg_catalog.uuid, name pg_catalog.text, value pg_catalog.bytea, field_encoding pg_catalog.text
) RETURNS pg_catalog.bytea
LANGUAGE plpgsql VOLATILE
AS $body$
BEGIN
    IF context.write_format OPERATOR(pg_catalog.=) 1 AND value IS NOT NULL THEN
        IF field_encoding OPERATOR(pg_catalog.=) 'pgp' THEN
            RETURN pg_catalog.decode('ff535032ffffffff', 'hex') OPERATOR(pg_catalog.||) secretproxy.pgp_encrypt_1(value, owner::pg_catalog.text);
        ELSIF field_encoding OPERATOR(pg_catalog.=) 'crypt' THEN
            RETURN pg_catalog.decode('ff535032ffffffff', 'hex') OPERATOR(pg_catalog.||) pg_catalog.convert_to(
                secretproxy.bcrypt(pg_catalog.concat(pg_catalog.chr(92), 'x', pg_catalog.encode(value, 'hex')), secretproxy.bcrypt_salt(context.crypt_cost)), 'SQL_ASCII');
        END IF;
        RETURN value;
    END IF;
    IF field_encoding OPERATOR(pg_catalog.=) 'pgp' THEN
        RETURN context.ring_prefix OPERATOR(pg_catalog.||) secretproxy.pgp_encrypt(
            secretproxy.server_to_utf8(value), secretproxy.value_key(context.ring_inner, context.ring_outer, owner, name));
    ELSIF field_encoding OPERATOR(pg_catalog.=) 'crypt' THEN
        RETURN secretproxy.password_hash(secretproxy.server_to_utf8(value), context.crypt_cost);
    END IF;
    RETURN value;
END
$body$;

-- The bytes of a pgp value of either format, in the database's encoding.
CREATE OR REPLACE FUNCTION secretproxy.open_value(
    context secretproxy.context, owner pg_catalog.uuid, name pg_catalog.text, stored pg_catalog.bytea
) RETURNS pg_catalog.bytea
LANGUAGE plpgsql STABLE
AS $body$
DECLARE
    v_inner pg_catalog.bytea := context.ring_inner;
    v_outer pg_catalog.bytea := context.ring_outer;
BEGIN
    IF pg_catalog.substr(stored, 1, 8) OPERATOR(pg_catalog.<>) context.ring_prefix THEN
        IF pg_catalog.substr(stored, 1, 4) OPERATOR(pg_catalog.<>) pg_catalog.decode('ff535032', 'hex') THEN
            RETURN secretproxy.pgp_decrypt_1(stored, owner::pg_catalog.text);
        ELSIF pg_catalog.substr(stored, 5, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ffffffff', 'hex') THEN -- written with write_format = 1 past the trigger
            RETURN secretproxy.pgp_decrypt_1(pg_catalog.substr(stored, 9), owner::pg_catalog.text);
        END IF;
        SELECT r.inner_pad, r.outer_pad INTO v_inner, v_outer
          FROM secretproxy.keyring r WHERE r.prefix OPERATOR(pg_catalog.=) pg_catalog.substr(stored, 1, 8);
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'the key of this secret is not in secretproxy.keyring';
        END IF;
    END IF;
    RETURN secretproxy.utf8_to_server(
        secretproxy.pgp_decrypt(pg_catalog.substr(stored, 9), secretproxy.value_key(v_inner, v_outer, owner, name)));
END
$body$;

-- Does the same with the newest keys. The API calls this one.
CREATE OR REPLACE FUNCTION secretproxy.seal_secret(owner pg_catalog.uuid, name pg_catalog.text, value pg_catalog.bytea, field_encoding pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
BEGIN
    SELECT c.* INTO STRICT v_context FROM secretproxy.context c;
    RETURN secretproxy.seal(v_context, owner, name, value, field_encoding);
END
$body$;
COMMENT ON FUNCTION secretproxy.seal_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) IS 'What is stored for a value: sealed with the newest ring key, hashed, or as it is';

CREATE OR REPLACE FUNCTION secretproxy.open_secret(owner pg_catalog.uuid, name pg_catalog.text, stored pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
BEGIN
    SELECT c.* INTO STRICT v_context FROM secretproxy.context c;
    RETURN secretproxy.open_value(v_context, owner, name, stored);
END
$body$;
COMMENT ON FUNCTION secretproxy.open_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea) IS 'The bytes of a stored pgp value';

-- `stored` is what secretproxy.stored_secret() hands over: a letter for the kind, then the bytes. NULL: there is no such secret.
-- One look-up for the keys and what the testimony says: each function, each expression and each statement more is paid for, most of it
-- before it runs. format() looks an output function up once for each change of type, so what is of one type stands together. The claims of
-- a session that has set none are asked for by two functions in the place of nine.
CREATE OR REPLACE FUNCTION secretproxy.read_secret(owner pg_catalog.uuid, name pg_catalog.text, default_value pg_catalog.text, stored pg_catalog.bytea) RETURNS pg_catalog.text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
AS $body$
DECLARE
    v_signing pg_catalog.bytea;
    v_key pg_catalog.text;
    v_charset pg_catalog.name;
    v_usual pg_catalog.bool;
    v_message pg_catalog.bytea;
    v_user pg_catalog.uuid;
    v_kind pg_catalog.int4;
    v_context secretproxy.context;
BEGIN
    IF coalesce(pg_catalog.current_setting('jwt.claims.user_id', true), pg_catalog.current_setting('request.jwt.claims', true)) IS NOT NULL THEN
        v_user := secretproxy.jwt_user();
    END IF;
    SELECT c.testimony_key, c.charset,
           secretproxy.planned_session() IS NOT NULL AND pg_catalog.substr(read_secret.stored, 1, 9) OPERATOR(pg_catalog.=) c.usual_mark,
           pg_catalog.encode(secretproxy.mac(pg_catalog.uuid_send(read_secret.owner) OPERATOR(pg_catalog.||) pg_catalog.convert_to(read_secret.name, c.charset), c.ring_key), 'hex'),
           pg_catalog.convert_to(pg_catalog.format('SPX2 %1$s %2$s %3$s encrypted_secrets.secrets_getter(uuid,text,text) %4$s %5$s %6$L %7$L %8$L',
               c.testimony_version, secretproxy.planned_session(), pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.clock_timestamp()), 'hex'),
               read_secret.owner, v_user, read_secret.name, session_user, pg_catalog.current_setting('role')), c.charset)
      INTO v_signing, v_charset, v_usual, v_key, v_message
      FROM secretproxy.context c;
    IF v_usual THEN
        RAISE INFO SQLSTATE 'SPX01' USING
            MESSAGE = pg_catalog.encode(v_message OPERATOR(pg_catalog.||) secretproxy.mac(v_message, v_signing), 'hex');
        RETURN pg_catalog.convert_from(secretproxy.pgp_decrypt(pg_catalog.substr(stored, 10), v_key), v_charset);
    END IF;
    PERFORM secretproxy.begin_call('encrypted_secrets.secrets_getter(uuid,text,text)', 'read', owner, ARRAY[name], NULL);
    IF stored IS NULL THEN
        RETURN default_value;
    END IF;
    v_kind := pg_catalog.get_byte(stored, 0);
    IF v_kind OPERATOR(pg_catalog.=) 112 THEN -- p: pgp
        RETURN secretproxy.server_text(secretproxy.open_secret(owner, name, pg_catalog.substr(stored, 2)));
    ELSIF v_kind OPERATOR(pg_catalog.=) 99 THEN -- c: crypt
        RETURN secretproxy.server_text(secretproxy.password_text(pg_catalog.substr(stored, 2)));
    ELSIF v_kind OPERATOR(pg_catalog.=) 110 THEN -- n: as it is
        RETURN secretproxy.server_text(pg_catalog.substr(stored, 2));
    END IF;
    RETURN NULL; -- a row whose value is NULL
END
$body$;
COMMENT ON FUNCTION secretproxy.read_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea) IS 'Testifies to a read and opens what was stored';

-- Compares `value` with what is stored. Returns NULL if they differ, empty bytes if they are equal, and the bytes to store instead where a
-- password of format 1 can become one of format 2. A missing secret, a wrong password and a wrong value each take one bcrypt of the cost
-- that passwords are stored with.
CREATE OR REPLACE FUNCTION secretproxy.check_secret(owner pg_catalog.uuid, name pg_catalog.text, value pg_catalog.text, stored pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
DECLARE
    v_context secretproxy.context;
    v_kind pg_catalog.int4;
    v_stored pg_catalog.bytea;
    v_hash pg_catalog.text;
    v_cost pg_catalog.int4;
    v_right pg_catalog.bool;
    v_better pg_catalog.bytea := pg_catalog.decode('', 'hex');
BEGIN
    SELECT c.* INTO v_context FROM secretproxy.context c;
    IF stored IS NOT NULL THEN
        v_kind := pg_catalog.get_byte(stored, 0);
        v_stored := pg_catalog.substr(stored, 2);
    END IF;
    IF v_kind OPERATOR(pg_catalog.=) 99 THEN
        v_hash := secretproxy.server_text(secretproxy.password_text(v_stored));
        IF v_hash OPERATOR(pg_catalog.!~) '^[$]2[axy][$][0-9]{2}[$]' THEN
            v_right := false; -- written past the functions; not a bcrypt hash
        ELSE
            v_cost := pg_catalog.substr(v_hash, 5, 2)::pg_catalog.int4;
            IF pg_catalog.substr(v_stored, 1, 4) OPERATOR(pg_catalog.<>) pg_catalog.decode('ff535032', 'hex') THEN
                -- Format 1: bcrypt over the text form of the bytes.
                v_right := secretproxy.bcrypt(pg_catalog.concat(pg_catalog.chr(92), 'x', pg_catalog.encode(secretproxy.server_bytes(value), 'hex')), v_hash) OPERATOR(pg_catalog.=) v_hash
                           AND value IS NOT NULL;
                IF v_right AND v_context.write_format OPERATOR(pg_catalog.=) 2 THEN
                    v_better := secretproxy.password_hash(secretproxy.to_bytes(value), v_context.crypt_cost);
                END IF;
            ELSE
                v_right := secretproxy.bcrypt(pg_catalog.encode(pg_catalog.sha256(secretproxy.to_bytes(value)), 'hex'), v_hash) OPERATOR(pg_catalog.=) v_hash;
            END IF;
        END IF;
    ELSIF v_kind OPERATOR(pg_catalog.=) 112 THEN
        v_right := secretproxy.open_value(v_context, owner, name, v_stored) OPERATOR(pg_catalog.=) secretproxy.server_bytes(value);
    ELSIF v_kind OPERATOR(pg_catalog.=) 110 THEN
        v_right := v_stored OPERATOR(pg_catalog.=) secretproxy.server_bytes(value);
    END IF;
    IF v_right THEN
        RETURN v_better;
    END IF;
    PERFORM secretproxy.take_time(CASE WHEN value IS NOT NULL THEN v_cost END, v_context.crypt_cost);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION secretproxy.check_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea) IS 'Whether a value is the stored one, and what to store in its place';

-- Testifies to a verify, then answers as check_secret() does; the usual one, of a value that the newest key sealed, in the form of read_secret().
-- It runs as check_secret() is called: for the API alone, under the settings that are pinned there.
CREATE OR REPLACE FUNCTION secretproxy.verify_secret(owner pg_catalog.uuid, name pg_catalog.text, value pg_catalog.text, stored pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
AS $body$
DECLARE
    v_signing pg_catalog.bytea;
    v_key pg_catalog.text;
    v_charset pg_catalog.name;
    v_cost pg_catalog.int4;
    v_usual pg_catalog.bool;
    v_message pg_catalog.bytea;
    v_user pg_catalog.uuid;
BEGIN
    IF coalesce(pg_catalog.current_setting('jwt.claims.user_id', true), pg_catalog.current_setting('request.jwt.claims', true)) IS NOT NULL THEN
        v_user := secretproxy.jwt_user();
    END IF;
    SELECT c.testimony_key, c.charset, c.crypt_cost,
           secretproxy.planned_session() IS NOT NULL AND pg_catalog.substr(verify_secret.stored, 1, 9) OPERATOR(pg_catalog.=) c.usual_mark,
           pg_catalog.encode(secretproxy.mac(pg_catalog.uuid_send(verify_secret.owner) OPERATOR(pg_catalog.||) pg_catalog.convert_to(verify_secret.name, c.charset), c.ring_key), 'hex'),
           pg_catalog.convert_to(pg_catalog.format('SPX2 %1$s %2$s %3$s encrypted_secrets.secrets_verify(uuid,text,text) %4$s %5$s %6$L %7$L %8$L',
               c.testimony_version, secretproxy.planned_session(), pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.clock_timestamp()), 'hex'),
               verify_secret.owner, v_user, verify_secret.name, session_user, pg_catalog.current_setting('role')), c.charset)
      INTO v_signing, v_charset, v_cost, v_usual, v_key, v_message
      FROM secretproxy.context c;
    IF v_usual THEN
        RAISE INFO SQLSTATE 'SPX01' USING
            MESSAGE = pg_catalog.encode(v_message OPERATOR(pg_catalog.||) secretproxy.mac(v_message, v_signing), 'hex');
        IF secretproxy.pgp_decrypt(pg_catalog.substr(stored, 10), v_key) OPERATOR(pg_catalog.=) pg_catalog.convert_to(value, v_charset) THEN
            RETURN pg_catalog.decode('', 'hex');
        END IF;
        PERFORM secretproxy.take_time(NULL, v_cost);
        RETURN NULL;
    END IF;
    PERFORM secretproxy.begin_call('encrypted_secrets.secrets_verify(uuid,text,text)', 'verify', owner, ARRAY[name], NULL);
    RETURN secretproxy.check_secret(owner, name, value, stored);
END
$body$;
COMMENT ON FUNCTION secretproxy.verify_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea) IS 'Testifies to a verify and says what check_secret() says';

-- Returns the first bytes of the newest ring key's values, which are no secret. With write_format = 1 nothing stored begins with them, so
-- that keys reencrypt brings everything back to format 1.
CREATE OR REPLACE FUNCTION secretproxy.ring_prefix() RETURNS pg_catalog.bytea
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT CASE WHEN c.write_format OPERATOR(pg_catalog.=) 2 THEN c.ring_prefix ELSE pg_catalog.decode('ff535032ffffffff', 'hex') END FROM secretproxy.context c
$body$;

-- Passwords of format 1 that a verify replaced by one of format 2, for a revert to put back. Whoever will not go back deletes its rows.
CREATE TABLE IF NOT EXISTS secretproxy.replaced_password (
    id pg_catalog.uuid PRIMARY KEY REFERENCES secrets_schema.secrets_table (id) ON DELETE CASCADE,
    value pg_catalog.bytea NOT NULL
);
ALTER TABLE secretproxy.replaced_password OWNER TO secretproxy_tables;
REVOKE ALL ON secretproxy.replaced_password FROM PUBLIC;
COMMENT ON TABLE secretproxy.replaced_password IS 'Hashes of the original module that a successful verify replaced; only a revert reads them';

CREATE OR REPLACE FUNCTION secretproxy.forget_password(secret pg_catalog.uuid) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    DELETE FROM secretproxy.replaced_password p WHERE p.id OPERATOR(pg_catalog.=) secret;
END
$body$;
COMMENT ON FUNCTION secretproxy.forget_password(pg_catalog.uuid) IS 'A password was written anew: a revert has none of format 1 to put back';

-- Seals what is written directly. It may have values sealed, and so nobody may execute it: no trigger on another table can be made of it.
-- It looks at nothing of a row before it knows that the row is the secrets table's and its columns have the types that they must have:
-- a column of another type would bring a cast of somebody's own.
CREATE OR REPLACE FUNCTION secrets_schema.tg_hash_secrets() RETURNS pg_catalog.trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
BEGIN
    IF TG_RELID OPERATOR(pg_catalog.<>) 'secrets_schema.secrets_table'::pg_catalog.regclass::pg_catalog.oid OR TG_WHEN OPERATOR(pg_catalog.<>) 'BEFORE' OR TG_LEVEL OPERATOR(pg_catalog.<>) 'ROW' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'tg_hash_secrets() is for rows of secrets_schema.secrets_table alone';
    END IF;
    IF pg_catalog.pg_typeof(NEW.id) OPERATOR(pg_catalog.<>) 'pg_catalog.uuid'::pg_catalog.regtype OR pg_catalog.pg_typeof(NEW.secrets_owned_field) OPERATOR(pg_catalog.<>) 'pg_catalog.uuid'::pg_catalog.regtype
       OR pg_catalog.pg_typeof(NEW.name) OPERATOR(pg_catalog.<>) 'pg_catalog.text'::pg_catalog.regtype OR pg_catalog.pg_typeof(NEW.secrets_value_field) OPERATOR(pg_catalog.<>) 'pg_catalog.bytea'::pg_catalog.regtype
       OR pg_catalog.pg_typeof(NEW.secrets_enc_field) OPERATOR(pg_catalog.<>) 'pg_catalog.text'::pg_catalog.regtype
    THEN
        RAISE EXCEPTION USING ERRCODE = '42804', MESSAGE = 'a column of secrets_schema.secrets_table has another type than when it was installed',
            HINT = 'secretproxy verify names it.';
    END IF;
    -- Only a row that is or was a password's has one to forget.
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND 'crypt' OPERATOR(pg_catalog.=) ANY (ARRAY[OLD.secrets_enc_field, NEW.secrets_enc_field]) THEN
        PERFORM secretproxy.forget_password(OLD.id);
    END IF;
    IF NEW.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' OR NEW.secrets_enc_field OPERATOR(pg_catalog.=) 'crypt' THEN
        IF (pg_catalog.substr(NEW.secrets_value_field, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex')) IS NOT TRUE THEN -- not sealed yet
            NEW.secrets_value_field := secretproxy.seal_secret(
                NEW.secrets_owned_field, NEW.name, NEW.secrets_value_field, NEW.secrets_enc_field);
        END IF;
        IF pg_catalog.substr(NEW.secrets_value_field, 1, 8) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032ffffffff', 'hex') THEN -- write_format = 1
            NEW.secrets_value_field := pg_catalog.substr(NEW.secrets_value_field, 9);
        END IF;
    ELSE
        NEW.secrets_enc_field := 'none'::pg_catalog.text;
    END IF;
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION secrets_schema.tg_hash_secrets() IS 'Seals a value that is inserted or updated directly';

DO $do$
DECLARE
    v_function pg_catalog.text;
    v_owner pg_catalog.text;
    v_trigger pg_catalog.name;
BEGIN
    FOR v_function, v_owner IN VALUES
        ('secretproxy.value_key(bytea,bytea,uuid,text)', 'secretproxy_keys'), ('secretproxy.password_hash(bytea,int)', 'secretproxy_keys'),
        ('secretproxy.password_text(bytea)', 'secretproxy_keys'), ('secretproxy.take_time(int,int)', 'secretproxy_keys'),
        ('secretproxy.seal(secretproxy.context,uuid,text,bytea,text)', 'secretproxy_keys'),
        ('secretproxy.open_value(secretproxy.context,uuid,text,bytea)', 'secretproxy_keys'),
        ('secretproxy.seal_secret(uuid,text,bytea,text)', 'secretproxy_keys'), ('secretproxy.open_secret(uuid,text,bytea)', 'secretproxy_keys'),
        ('secretproxy.read_secret(uuid,text,text,bytea)', 'secretproxy_keys'), ('secretproxy.check_secret(uuid,text,text,bytea)', 'secretproxy_keys'),
        ('secretproxy.verify_secret(uuid,text,text,bytea)', 'secretproxy_keys'),
        ('secretproxy.ring_prefix()', 'secretproxy_keys'), ('secretproxy.forget_password(uuid)', 'secretproxy_tables'),
        ('secrets_schema.tg_hash_secrets()', 'secretproxy_api')
    LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', v_function, v_owner);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
    END LOOP;
    -- A role that could execute the original's own trigger function could make triggers of it.
    FOR v_owner IN SELECT DISTINCT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) FROM pg_catalog.pg_proc p, LATERAL pg_catalog.aclexplode(p.proacl) x
                    WHERE p.oid OPERATOR(pg_catalog.=) 'secrets_schema.tg_hash_secrets()'::pg_catalog.regprocedure AND x.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND x.grantee OPERATOR(pg_catalog.<>) p.proowner LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION secrets_schema.tg_hash_secrets() FROM %s CASCADE', v_owner);
    END LOOP;
    GRANT EXECUTE ON FUNCTION secretproxy.seal_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text), secretproxy.open_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea),
        secretproxy.read_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea), secretproxy.check_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea), secretproxy.ring_prefix(),
        secretproxy.verify_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea), secretproxy.forget_password(pg_catalog.uuid) TO secretproxy_api;
    -- The original triggers call the function of the same name; where they are missing, ours take their place.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass
                   AND t.tgfoid OPERATOR(pg_catalog.=) 'secrets_schema.tg_hash_secrets()'::pg_catalog.regprocedure AND (t.tgtype OPERATOR(pg_catalog.&) 4::pg_catalog.int2) OPERATOR(pg_catalog.<>) 0) THEN
        CREATE TRIGGER hash_secrets_insert BEFORE INSERT ON secrets_schema.secrets_table
            FOR EACH ROW EXECUTE FUNCTION secrets_schema.tg_hash_secrets();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass
                   AND t.tgfoid OPERATOR(pg_catalog.=) 'secrets_schema.tg_hash_secrets()'::pg_catalog.regprocedure AND (t.tgtype OPERATOR(pg_catalog.&) 16::pg_catalog.int2) OPERATOR(pg_catalog.<>) 0) THEN
        CREATE TRIGGER hash_secrets_update BEFORE UPDATE ON secrets_schema.secrets_table
            FOR EACH ROW WHEN ((NEW.secrets_value_field OPERATOR(pg_catalog.=) OLD.secrets_value_field) IS NOT TRUE)
            EXECUTE FUNCTION secrets_schema.tg_hash_secrets();
    END IF;
    FOR v_trigger IN SELECT t.tgname FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass
                        AND t.tgfoid OPERATOR(pg_catalog.=) 'secrets_schema.tg_hash_secrets()'::pg_catalog.regprocedure AND t.tgenabled OPERATOR(pg_catalog.<>) 'O'::pg_catalog."char" LOOP
        EXECUTE pg_catalog.format('ALTER TABLE secrets_schema.secrets_table ENABLE TRIGGER %I', v_trigger);
    END LOOP;
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('secrets_table', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
