-- Revert secretproxy:key_rotation from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.rotate_keyring(), secretproxy.reencrypt(uuid, int, boolean), secretproxy.stored_formats();
DELETE FROM secretproxy.changes WHERE change = 'key_rotation';
COMMIT;
