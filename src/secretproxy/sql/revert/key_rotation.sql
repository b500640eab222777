-- Revert secretproxy:key_rotation from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.rotate_keyring(), secretproxy.reencrypt(uuid, int, boolean), secretproxy.values_to_seal();
DELETE FROM secretproxy.changes WHERE change = 'key_rotation';
COMMIT;
