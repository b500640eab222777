-- Revert secretproxy:access_log_views from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $do$
BEGIN
    IF pg_get_userbyid((SELECT relowner FROM pg_class WHERE oid = to_regclass('public.secret_access_log'))) = 'secretproxy_owner' THEN
        DROP VIEW public.secret_access_log;
    END IF;
END
$do$;
DROP VIEW IF EXISTS secretproxy.secret_access_log;
DROP VIEW IF EXISTS secretproxy.secret_access;
DELETE FROM secretproxy.changes WHERE change = 'access_log_views';
COMMIT;
