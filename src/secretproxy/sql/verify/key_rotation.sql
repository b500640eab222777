-- Verify secretproxy:key_rotation on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 'secretproxy.rotate_keyring()'::pg_catalog.regprocedure, 'secretproxy.reencrypt(uuid,int,boolean)'::pg_catalog.regprocedure,
       'secretproxy.values_to_seal()'::pg_catalog.regprocedure;
ROLLBACK;
