-- Verify secretproxy:encrypt_fields on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 8)::int FROM pg_catalog.pg_proc
 WHERE pronamespace OPERATOR(pg_catalog.=) 'encrypted_secrets'::pg_catalog.regnamespace AND (proname OPERATOR(pg_catalog.~~) 'encrypt_field_%' OR proname OPERATOR(pg_catalog.=) 'secrets_table_upsert')
   AND proowner OPERATOR(pg_catalog.=) 'secretproxy_api'::pg_catalog.regrole AND proconfig::pg_catalog.text OPERATOR(pg_catalog.~~) '%search_path%';
ROLLBACK;
