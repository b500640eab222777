-- Verify secretproxy:encrypted_secrets on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 5)::int FROM pg_catalog.pg_proc
 WHERE pronamespace OPERATOR(pg_catalog.=) 'encrypted_secrets'::pg_catalog.regnamespace AND proname OPERATOR(pg_catalog.=) ANY (ARRAY['secrets_upsert', 'secrets_getter', 'secrets_verify', 'secrets_delete'])
   AND prosecdef AND provolatile OPERATOR(pg_catalog.=) 'v' AND proowner OPERATOR(pg_catalog.=) 'secretproxy_api'::pg_catalog.regrole AND proconfig::pg_catalog.text OPERATOR(pg_catalog.~~) '%search_path%';
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.has_function_privilege('authenticated', 'encrypted_secrets.secrets_getter(uuid,text,text)', 'EXECUTE')::int;
ROLLBACK;
