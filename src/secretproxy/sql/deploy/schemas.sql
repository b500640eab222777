-- Deploy secretproxy:schemas to pg
-- requires: adoption

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS encrypted_secrets;
CREATE SCHEMA IF NOT EXISTS secrets_schema;
CREATE SCHEMA IF NOT EXISTS jwt_public;

ALTER SCHEMA encrypted_secrets OWNER TO secretproxy_owner;
ALTER SCHEMA secrets_schema OWNER TO secretproxy_owner;

-- jwt_public may hold more than our function: it keeps its owner, and ours only if nobody had made it.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM secretproxy.adopted WHERE kind OPERATOR(pg_catalog.=) 'schema' AND object OPERATOR(pg_catalog.=) 'jwt_public') THEN
        ALTER SCHEMA jwt_public OWNER TO secretproxy_owner;
    END IF;
END
$do$;

GRANT USAGE ON SCHEMA encrypted_secrets TO authenticated;
GRANT USAGE ON SCHEMA jwt_public TO anonymous, authenticated;
GRANT USAGE ON SCHEMA jwt_public TO secretproxy_owner;
-- The API compares the table that its trigger stands on by name; it touches no table.
GRANT USAGE ON SCHEMA secrets_schema TO secretproxy_api, secretproxy_tables;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('schemas', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
