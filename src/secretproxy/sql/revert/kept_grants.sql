-- Revert secretproxy:kept_grants from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $do$
DECLARE
    v_kind pg_catalog.text;
    v_object pg_catalog.text;
    v_role pg_catalog.name;
    v_privilege pg_catalog.text;
BEGIN
    FOR v_kind, v_object, v_role, v_privilege IN
        SELECT k.kind, k.object, k.grantee, k.privilege
          FROM secretproxy.kept_grants k JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) k.grantee
         WHERE CASE WHEN k.kind OPERATOR(pg_catalog.=) 'schema' THEN pg_catalog.to_regnamespace(k.object)::pg_catalog.oid WHEN k.kind OPERATOR(pg_catalog.=) 'table' THEN pg_catalog.to_regclass(k.object)::pg_catalog.oid
                           ELSE pg_catalog.to_regprocedure(k.object)::pg_catalog.oid END IS NOT NULL
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %I CASCADE', v_privilege, v_kind, v_object, v_role);
    END LOOP;
END
$do$;
DROP FUNCTION IF EXISTS secretproxy.keep_owner_rights(pg_catalog.name), secretproxy.keep_grant(pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.text);
DELETE FROM secretproxy.kept_grants;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'kept_grants';
COMMIT;
