-- Revert secretproxy:schemas from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $do$
DECLARE
    v_schema text;
    v_owner name;
BEGIN
    FOREACH v_schema IN ARRAY ARRAY['encrypted_secrets', 'secrets_schema', 'jwt_public'] LOOP
        SELECT owner INTO v_owner FROM secretproxy.adopted WHERE kind = 'schema' AND object = v_schema;
        IF FOUND THEN
            EXECUTE format('ALTER SCHEMA %I OWNER TO %I', v_schema, v_owner);
        ELSIF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace(v_schema))
          AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace(v_schema)) THEN
            EXECUTE format('DROP SCHEMA IF EXISTS %I', v_schema);
        ELSE
            EXECUTE format('ALTER SCHEMA %I OWNER TO %I', v_schema, session_user);
        END IF;
    END LOOP;
END
$do$;
DELETE FROM secretproxy.changes WHERE change = 'schemas';
COMMIT;
