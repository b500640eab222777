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
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'pgcrypto') THEN
        IF pg_catalog.to_regnamespace('public') IS NOT NULL THEN
            CREATE EXTENSION pgcrypto SCHEMA public;
        ELSE
            CREATE EXTENSION pgcrypto SCHEMA secretproxy;
        END IF;
    END IF;
    PERFORM pg_catalog.set_config('search_path', pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) ', pg_catalog, pg_temp', true)
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
     WHERE e.extname OPERATOR(pg_catalog.=) 'pgcrypto';
END
$do$;

-- Format 2: the key is already random, so nothing is stretched (s2k-mode=0; SHA-256 gives AES-256 its key in one round); the
-- integrity code stays on.
CREATE OR REPLACE FUNCTION secretproxy.pgp_encrypt(data pg_catalog.bytea, key pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pgp_sym_encrypt_bytea(data, key, 's2k-mode=0, s2k-digest-algo=sha256, cipher-algo=aes256, compress-algo=0'::pg_catalog.text);

CREATE OR REPLACE FUNCTION secretproxy.pgp_decrypt(data pg_catalog.bytea, key pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pgp_sym_decrypt_bytea(data, key);

-- Format 1, as the original modules wrote it.
CREATE OR REPLACE FUNCTION secretproxy.pgp_encrypt_1(data pg_catalog.bytea, key pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pgp_sym_encrypt(pg_catalog.encode(data, 'hex'::pg_catalog.text), key, 'compress-algo=1, cipher-algo=aes256'::pg_catalog.text);

CREATE OR REPLACE FUNCTION secretproxy.pgp_decrypt_1(data pg_catalog.bytea, key pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.decode(pgp_sym_decrypt(data, key), 'hex'::pg_catalog.text);

CREATE OR REPLACE FUNCTION secretproxy.bcrypt(password pg_catalog.text, salt pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN crypt(password, salt);

CREATE OR REPLACE FUNCTION secretproxy.bcrypt_salt(cost int) RETURNS pg_catalog.text
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_salt('bf'::pg_catalog.text, cost);

CREATE OR REPLACE FUNCTION secretproxy.random_key() RETURNS pg_catalog.bytea
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_random_bytes(32);

-- HMAC-SHA256 in one call, where each call costs more to prepare than to run.
CREATE OR REPLACE FUNCTION secretproxy.mac(data pg_catalog.bytea, key pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hmac(data, key, 'sha256'::pg_catalog.text);

SET LOCAL search_path = pg_catalog, pg_temp;

-- The same in two halves: the key's padded blocks are computed once, when the key is stored; core sha256() does the rest.
CREATE OR REPLACE FUNCTION secretproxy.hmac_pad(key pg_catalog.bytea, filler int) RETURNS pg_catalog.bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_pad pg_catalog.bytea := key OPERATOR(pg_catalog.||) pg_catalog.decode(pg_catalog.repeat('00', 64 OPERATOR(pg_catalog.-) pg_catalog.octet_length(key)), 'hex');
BEGIN
    FOR i IN 0..63 LOOP
        v_pad := pg_catalog.set_byte(v_pad, i, pg_catalog.get_byte(v_pad, i) OPERATOR(pg_catalog.#) filler);
    END LOOP;
    RETURN v_pad;
END
$body$;

CREATE OR REPLACE FUNCTION secretproxy.hmac(inner_pad pg_catalog.bytea, outer_pad pg_catalog.bytea, message pg_catalog.bytea) RETURNS pg_catalog.text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.encode(pg_catalog.sha256(outer_pad OPERATOR(pg_catalog.||) pg_catalog.sha256(inner_pad OPERATOR(pg_catalog.||) message)), 'hex'::pg_catalog.text);

-- Text as the bytes that are hashed and encrypted. A database in SQL_ASCII knows no characters, only bytes.
CREATE OR REPLACE FUNCTION secretproxy.to_bytes(value pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.convert_to(value, CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'SQL_ASCII' THEN 'SQL_ASCII'::pg_catalog.name ELSE 'UTF8'::pg_catalog.name END);

CREATE OR REPLACE FUNCTION secretproxy.to_text(value pg_catalog.bytea) RETURNS pg_catalog.text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.convert_from(value, CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'SQL_ASCII' THEN 'SQL_ASCII'::pg_catalog.name ELSE 'UTF8'::pg_catalog.name END);

-- Values are bytes of the database's encoding in format 1, of UTF-8 in format 2.
CREATE OR REPLACE FUNCTION secretproxy.server_bytes(value pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.convert_to(value, pg_catalog.getdatabaseencoding());

CREATE OR REPLACE FUNCTION secretproxy.server_text(value pg_catalog.bytea) RETURNS pg_catalog.text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.convert_from(value, 'SQL_ASCII'::pg_catalog.name);

CREATE OR REPLACE FUNCTION secretproxy.server_to_utf8(value pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) ANY (ARRAY['UTF8'::pg_catalog.name, 'SQL_ASCII'::pg_catalog.name]) THEN value
            ELSE pg_catalog.convert(value, pg_catalog.getdatabaseencoding(), 'UTF8'::pg_catalog.name) END;

CREATE OR REPLACE FUNCTION secretproxy.utf8_to_server(value pg_catalog.bytea) RETURNS pg_catalog.bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) ANY (ARRAY['UTF8'::pg_catalog.name, 'SQL_ASCII'::pg_catalog.name]) THEN value
            ELSE pg_catalog.convert(value, 'UTF8'::pg_catalog.name, pg_catalog.getdatabaseencoding()) END;

DO $do$
DECLARE
    v_function pg_catalog.text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
        'pgp_encrypt(pg_catalog.bytea,pg_catalog.text)', 'pgp_decrypt(pg_catalog.bytea,pg_catalog.text)', 'pgp_encrypt_1(pg_catalog.bytea,pg_catalog.text)', 'pgp_decrypt_1(pg_catalog.bytea,pg_catalog.text)',
        'bcrypt(pg_catalog.text,pg_catalog.text)', 'bcrypt_salt(int)', 'random_key()', 'mac(pg_catalog.bytea,pg_catalog.bytea)', 'hmac_pad(pg_catalog.bytea,int)', 'hmac(pg_catalog.bytea,pg_catalog.bytea,pg_catalog.bytea)',
        'to_bytes(pg_catalog.text)', 'to_text(pg_catalog.bytea)', 'server_bytes(pg_catalog.text)', 'server_text(pg_catalog.bytea)', 'server_to_utf8(pg_catalog.bytea)', 'utf8_to_server(pg_catalog.bytea)'] LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION secretproxy.%s OWNER TO secretproxy_keys', v_function);
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION secretproxy.%s FROM PUBLIC', v_function);
    END LOOP;
END
$do$;
-- These hold no key and do nothing that pgcrypto does not do for everybody: triggers of an application's tables need them as whoever writes.
GRANT EXECUTE ON FUNCTION secretproxy.bcrypt(pg_catalog.text, pg_catalog.text), secretproxy.bcrypt_salt(int), secretproxy.pgp_encrypt_1(pg_catalog.bytea, pg_catalog.text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.pgp_decrypt_1(pg_catalog.bytea, pg_catalog.text) TO secretproxy_api;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('crypto', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
