-- Verify secretproxy:crypto on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (secretproxy.hmac(secretproxy.hmac_pad('\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b', 54),
                                secretproxy.hmac_pad('\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b', 92), 'Hi There')
            = 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7')::int;
SELECT 1 / (secretproxy.pgp_decrypt(secretproxy.pgp_encrypt('x', 'k'), 'k') = 'x')::int;
ROLLBACK;
