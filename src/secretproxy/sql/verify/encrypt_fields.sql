-- Verify secretproxy:encrypt_fields on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 / (count(*) = 8)::int FROM pg_proc
 WHERE pronamespace = 'encrypted_secrets'::regnamespace AND (proname LIKE 'encrypt_field_%' OR proname = 'secrets_table_upsert')
   AND proowner = 'secretproxy_api'::regrole AND proconfig::text LIKE '%search_path%';
ROLLBACK;
