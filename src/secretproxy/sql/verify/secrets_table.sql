-- Verify secretproxy:secrets_table on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT id, secrets_owned_field, name, secrets_value_field, secrets_enc_field FROM secrets_schema.secrets_table WHERE false;
SELECT 1 / (NOT has_table_privilege('authenticated', 'secrets_schema.secrets_table', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE'))::int;
SELECT 1 / (count(*) >= 2)::int FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure;
ROLLBACK;
