-- Revert secretproxy:stored_secrets from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.stored_secret(uuid, text);
DROP FUNCTION IF EXISTS secretproxy.store_secret(uuid, text, bytea, text);
DROP FUNCTION IF EXISTS secretproxy.delete_secrets(uuid, text[]);
DROP FUNCTION IF EXISTS secretproxy.replace_password(uuid, text, bytea, bytea);
DROP FUNCTION IF EXISTS secretproxy.first_secret(uuid);
DROP FUNCTION IF EXISTS secretproxy.secrets_of(uuid);
DROP FUNCTION IF EXISTS secretproxy.names_of(uuid);
DROP FUNCTION IF EXISTS secretproxy.name_of(uuid, bytea);
DROP FUNCTION IF EXISTS secretproxy.add_row(uuid, uuid, text, bytea, text);
DROP FUNCTION IF EXISTS secretproxy.set_row(uuid, text, bytea, text);
DROP FUNCTION IF EXISTS secretproxy.ids_to_seal(uuid, int, bytea);
DROP FUNCTION IF EXISTS secretproxy.rows_to_seal(uuid[], bytea, boolean);
DROP FUNCTION IF EXISTS secretproxy.count_to_seal(bytea);
DROP FUNCTION IF EXISTS secretproxy.stored_formats();
-- What is left of these the revert of secrets_table needs, and drops.
DELETE FROM secretproxy.changes WHERE change = 'stored_secrets';
COMMIT;
