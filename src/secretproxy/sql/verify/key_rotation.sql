-- Verify secretproxy:key_rotation on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 'secretproxy.rotate_keyring()'::regprocedure, 'secretproxy.reencrypt(uuid,int,boolean)'::regprocedure,
       'secretproxy.values_to_seal()'::regprocedure;
ROLLBACK;
