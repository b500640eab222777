-- Verify secretproxy:crypto on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (secretproxy.hmac(secretproxy.hmac_pad('\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b', 54),
                                secretproxy.hmac_pad('\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b', 92), 'Hi There')
            OPERATOR(pg_catalog.=) 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7')::int;
SELECT 1 OPERATOR(pg_catalog./) (secretproxy.mac('Hi There', '\x0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b')
            OPERATOR(pg_catalog.=) '\xb0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7')::int;
SELECT 1 OPERATOR(pg_catalog./) (secretproxy.pgp_decrypt(secretproxy.pgp_encrypt('x', 'k'), 'k') OPERATOR(pg_catalog.=) 'x')::int;
ROLLBACK;
