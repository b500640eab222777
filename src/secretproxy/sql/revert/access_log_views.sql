-- Revert secretproxy:access_log_views from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $do$
BEGIN
    IF pg_catalog.pg_get_userbyid((SELECT relowner FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('public.secret_access_log'))) OPERATOR(pg_catalog.=) 'secretproxy_owner' THEN
        DROP VIEW public.secret_access_log;
    END IF;
END
$do$;
DROP VIEW IF EXISTS secretproxy.secret_access_log;
DROP VIEW IF EXISTS secretproxy.secret_access;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'access_log_views';
COMMIT;
