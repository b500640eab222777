-- Verify secretproxy:key_rotation on pg

BEGIN;
SELECT 'secretproxy.rotate_keyring()'::regprocedure, 'secretproxy.reencrypt(uuid,int,boolean)'::regprocedure,
       'secretproxy.stored_formats()'::regprocedure;
ROLLBACK;
