-- Verify secretproxy:encrypted_secrets on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (count(*) = 5)::int FROM pg_proc
 WHERE pronamespace = 'encrypted_secrets'::regnamespace AND proname IN ('secrets_upsert', 'secrets_getter', 'secrets_verify', 'secrets_delete')
   AND prosecdef AND provolatile = 'v' AND proowner = 'secretproxy_api'::regrole AND proconfig::text LIKE '%search_path%';
SELECT 1 / has_function_privilege('authenticated', 'encrypted_secrets.secrets_getter(uuid,text,text)', 'EXECUTE')::int;
ROLLBACK;
