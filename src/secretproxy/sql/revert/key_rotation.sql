-- Revert secretproxy:key_rotation from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.rotate_keyring(), secretproxy.reencrypt(pg_catalog.uuid, int, boolean), secretproxy.values_to_seal();
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'key_rotation';
COMMIT;
