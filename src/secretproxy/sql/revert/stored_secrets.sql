-- Revert secretproxy:stored_secrets from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP FUNCTION IF EXISTS secretproxy.stored_secret(pg_catalog.uuid, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.store_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.delete_secrets(pg_catalog.uuid, pg_catalog.text[]);
DROP FUNCTION IF EXISTS secretproxy.replace_password(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.bytea);
DROP FUNCTION IF EXISTS secretproxy.first_secret(pg_catalog.uuid);
DROP FUNCTION IF EXISTS secretproxy.secrets_of(pg_catalog.uuid);
DROP FUNCTION IF EXISTS secretproxy.names_of(pg_catalog.uuid);
DROP FUNCTION IF EXISTS secretproxy.name_of(pg_catalog.uuid, pg_catalog.bytea);
DROP FUNCTION IF EXISTS secretproxy.add_row(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.set_row(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.ids_to_seal(pg_catalog.uuid, int, pg_catalog.bytea);
DROP FUNCTION IF EXISTS secretproxy.rows_to_seal(pg_catalog.uuid[], pg_catalog.bytea, boolean);
DROP FUNCTION IF EXISTS secretproxy.count_to_seal(pg_catalog.bytea);
DROP FUNCTION IF EXISTS secretproxy.stored_formats();
-- What is left of these the revert of secrets_table needs, and drops.
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'stored_secrets';
COMMIT;
