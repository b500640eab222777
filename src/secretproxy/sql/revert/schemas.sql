-- Revert secretproxy:schemas from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $do$
DECLARE
    v_schema pg_catalog.text;
    v_owner pg_catalog.name;
    v_acl pg_catalog.aclitem[];
    g record;
BEGIN
    FOREACH v_schema IN ARRAY ARRAY['encrypted_secrets', 'secrets_schema', 'jwt_public'] LOOP
        SELECT owner, acl INTO v_owner, v_acl FROM secretproxy.adopted WHERE kind OPERATOR(pg_catalog.=) 'schema' AND object OPERATOR(pg_catalog.=) v_schema;
        IF FOUND THEN
            EXECUTE pg_catalog.format('ALTER SCHEMA %I OWNER TO %I', v_schema, v_owner);
            -- What was granted since goes, what was granted before is there.
            FOR g IN SELECT CASE WHEN x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS who, x.privilege_type
                       FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) x
                      WHERE n.nspname OPERATOR(pg_catalog.=) v_schema AND x.grantee OPERATOR(pg_catalog.<>) n.nspowner AND NOT EXISTS (
                            SELECT FROM pg_catalog.aclexplode(v_acl) y WHERE y.grantee OPERATOR(pg_catalog.=) x.grantee AND y.privilege_type OPERATOR(pg_catalog.=) x.privilege_type) LOOP
                EXECUTE pg_catalog.format('REVOKE %s ON SCHEMA %I FROM %s', g.privilege_type, v_schema, g.who);
            END LOOP;
            FOR g IN SELECT CASE WHEN x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END AS who, x.privilege_type,
                            CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
                       FROM pg_catalog.aclexplode(v_acl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) x.grantee
                      WHERE x.grantee OPERATOR(pg_catalog.=) 0 OR r.rolname OPERATOR(pg_catalog.<>) v_owner LOOP
                EXECUTE pg_catalog.format('GRANT %s ON SCHEMA %I TO %s', g.privilege_type, v_schema, g.who) OPERATOR(pg_catalog.||) g.option;
            END LOOP;
        ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace(v_schema))
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace(v_schema)) THEN
            EXECUTE pg_catalog.format('DROP SCHEMA IF EXISTS %I', v_schema);
        ELSE
            EXECUTE pg_catalog.format('ALTER SCHEMA %I OWNER TO %I', v_schema, session_user);
        END IF;
    END LOOP;
END
$do$;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'schemas';
COMMIT;
