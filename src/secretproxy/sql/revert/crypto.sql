-- Revert secretproxy:crypto from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.hmac_pad(bytea, int), secretproxy.hmac(bytea, bytea, bytea), secretproxy.to_bytes(text),
    secretproxy.to_text(bytea), secretproxy.server_bytes(text), secretproxy.server_text(bytea),
    secretproxy.server_to_utf8(bytea), secretproxy.utf8_to_server(bytea), secretproxy.pgp_encrypt(bytea, text), secretproxy.pgp_decrypt(bytea, text),
    secretproxy.pgp_encrypt_1(bytea, text), secretproxy.pgp_decrypt_1(bytea, text), secretproxy.bcrypt(text, text),
    secretproxy.bcrypt_salt(int), secretproxy.random_key();
DELETE FROM secretproxy.changes WHERE change = 'crypto';
COMMIT;
