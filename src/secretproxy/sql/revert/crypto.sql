-- Revert secretproxy:crypto from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.hmac_pad(pg_catalog.bytea, int), secretproxy.hmac(pg_catalog.bytea, pg_catalog.bytea, pg_catalog.bytea), secretproxy.to_bytes(pg_catalog.text),
    secretproxy.to_text(pg_catalog.bytea), secretproxy.server_bytes(pg_catalog.text), secretproxy.server_text(pg_catalog.bytea),
    secretproxy.server_to_utf8(pg_catalog.bytea), secretproxy.utf8_to_server(pg_catalog.bytea), secretproxy.pgp_encrypt(pg_catalog.bytea, pg_catalog.text), secretproxy.pgp_decrypt(pg_catalog.bytea, pg_catalog.text),
    secretproxy.pgp_encrypt_1(pg_catalog.bytea, pg_catalog.text), secretproxy.pgp_decrypt_1(pg_catalog.bytea, pg_catalog.text), secretproxy.bcrypt(pg_catalog.text, pg_catalog.text),
    secretproxy.bcrypt_salt(int), secretproxy.random_key(), secretproxy.mac(pg_catalog.bytea, pg_catalog.bytea);
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'crypto';
COMMIT;
