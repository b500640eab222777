-- Deploy secretproxy:crypto to pg
-- requires: roles
-- The only place that names pgcrypto. The bodies are stored parsed, bound to pgcrypto's functions by OID: pgcrypto may
-- live in any schema and move, and no search_path can put other functions in their place. All are small enough for the
-- planner to inline them.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgcrypto') THEN
        IF to_regnamespace('public') IS NOT NULL THEN
            CREATE EXTENSION pgcrypto SCHEMA public;
        ELSE
            CREATE EXTENSION pgcrypto SCHEMA secretproxy;
        END IF;
    END IF;
    PERFORM set_config('search_path', quote_ident(n.nspname) || ', pg_catalog, pg_temp', true)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgcrypto';
END
$do$;

-- Format 2: the key is already random, so nothing is stretched (s2k-mode=0; SHA-256 gives AES-256 its key in one round); the
-- integrity code stays on.
CREATE OR REPLACE FUNCTION secretproxy.pgp_encrypt(data bytea, key text) RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pgp_sym_encrypt_bytea(data, key, 's2k-mode=0, s2k-digest-algo=sha256, cipher-algo=aes256, compress-algo=0'::text);

CREATE OR REPLACE FUNCTION secretproxy.pgp_decrypt(data bytea, key text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pgp_sym_decrypt_bytea(data, key);

-- Format 1, as the original modules wrote it.
CREATE OR REPLACE FUNCTION secretproxy.pgp_encrypt_1(data bytea, key text) RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pgp_sym_encrypt(pg_catalog.encode(data, 'hex'::text), key, 'compress-algo=1, cipher-algo=aes256'::text);

CREATE OR REPLACE FUNCTION secretproxy.pgp_decrypt_1(data bytea, key text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.decode(pgp_sym_decrypt(data, key), 'hex'::text);

CREATE OR REPLACE FUNCTION secretproxy.bcrypt(password text, salt text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN crypt(password, salt);

CREATE OR REPLACE FUNCTION secretproxy.bcrypt_salt(cost int) RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_salt('bf'::text, cost);

CREATE OR REPLACE FUNCTION secretproxy.random_key() RETURNS bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_random_bytes(32);

SET LOCAL search_path = pg_catalog, pg_temp;

-- HMAC-SHA256 in two halves: the key's padded blocks are computed once, when the key is stored; core sha256() does the rest.
CREATE OR REPLACE FUNCTION secretproxy.hmac_pad(key bytea, filler int) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_pad bytea := key || decode(repeat('00', 64 - octet_length(key)), 'hex');
BEGIN
    FOR i IN 0..63 LOOP
        v_pad := set_byte(v_pad, i, get_byte(v_pad, i) # filler);
    END LOOP;
    RETURN v_pad;
END
$body$;

CREATE OR REPLACE FUNCTION secretproxy.hmac(inner_pad bytea, outer_pad bytea, message bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(sha256(outer_pad || sha256(inner_pad || message)), 'hex'::text);

-- Text as the bytes that are hashed and encrypted. A database in SQL_ASCII knows no characters, only bytes.
CREATE OR REPLACE FUNCTION secretproxy.to_bytes(value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_to(value, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII'::name ELSE 'UTF8'::name END);

CREATE OR REPLACE FUNCTION secretproxy.to_text(value bytea) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_from(value, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII'::name ELSE 'UTF8'::name END);

-- Values are bytes of the database's encoding in format 1, of UTF-8 in format 2.
CREATE OR REPLACE FUNCTION secretproxy.server_bytes(value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_to(value, getdatabaseencoding());

CREATE OR REPLACE FUNCTION secretproxy.server_text(value bytea) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_from(value, 'SQL_ASCII'::name);

CREATE OR REPLACE FUNCTION secretproxy.server_to_utf8(value bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN getdatabaseencoding() IN ('UTF8'::name, 'SQL_ASCII'::name) THEN value
            ELSE convert(value, getdatabaseencoding(), 'UTF8'::name) END;

CREATE OR REPLACE FUNCTION secretproxy.utf8_to_server(value bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN getdatabaseencoding() IN ('UTF8'::name, 'SQL_ASCII'::name) THEN value
            ELSE convert(value, 'UTF8'::name, getdatabaseencoding()) END;

DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'pgp_encrypt(bytea,text)', 'pgp_decrypt(bytea,text)', 'pgp_encrypt_1(bytea,text)', 'pgp_decrypt_1(bytea,text)',
        'bcrypt(text,text)', 'bcrypt_salt(int)', 'random_key()', 'hmac_pad(bytea,int)', 'hmac(bytea,bytea,bytea)',
        'to_bytes(text)', 'to_text(bytea)', 'server_bytes(text)', 'server_text(bytea)', 'server_to_utf8(bytea)', 'utf8_to_server(bytea)'] LOOP
        EXECUTE format('ALTER FUNCTION secretproxy.%s OWNER TO secretproxy_keys', v_function);
        EXECUTE format('REVOKE ALL ON FUNCTION secretproxy.%s FROM PUBLIC', v_function);
    END LOOP;
END
$do$;
-- These hold no key and do nothing that pgcrypto does not do for everybody: triggers of an application's tables need them as whoever writes.
GRANT EXECUTE ON FUNCTION secretproxy.bcrypt(text, text), secretproxy.bcrypt_salt(int), secretproxy.pgp_encrypt_1(bytea, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.pgp_decrypt_1(bytea, text) TO secretproxy_api;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('crypto', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
