-- Revert secretproxy:settings from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP TABLE secretproxy.settings;
DROP FUNCTION IF EXISTS secretproxy.check_settings(), secretproxy.settings_now();
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'settings';
COMMIT;
