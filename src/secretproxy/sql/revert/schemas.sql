-- Revert secretproxy:schemas from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $do$
DECLARE
    v_schema text;
    v_owner name;
    v_acl aclitem[];
    g record;
BEGIN
    FOREACH v_schema IN ARRAY ARRAY['encrypted_secrets', 'secrets_schema', 'jwt_public'] LOOP
        SELECT owner, acl INTO v_owner, v_acl FROM secretproxy.adopted WHERE kind = 'schema' AND object = v_schema;
        IF FOUND THEN
            EXECUTE format('ALTER SCHEMA %I OWNER TO %I', v_schema, v_owner);
            -- What was granted since goes, what was granted before is there.
            FOR g IN SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS who, x.privilege_type
                       FROM pg_namespace n, aclexplode(n.nspacl) x
                      WHERE n.nspname = v_schema AND x.grantee <> n.nspowner AND NOT EXISTS (
                            SELECT FROM aclexplode(v_acl) y WHERE y.grantee = x.grantee AND y.privilege_type = x.privilege_type) LOOP
                EXECUTE format('REVOKE %s ON SCHEMA %I FROM %s', g.privilege_type, v_schema, g.who);
            END LOOP;
            FOR g IN SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS who, x.privilege_type,
                            CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
                       FROM aclexplode(v_acl) x LEFT JOIN pg_roles r ON r.oid = x.grantee
                      WHERE x.grantee = 0 OR r.rolname <> v_owner LOOP
                EXECUTE format('GRANT %s ON SCHEMA %I TO %s', g.privilege_type, v_schema, g.who) || g.option;
            END LOOP;
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
