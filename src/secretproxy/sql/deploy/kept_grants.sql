-- Deploy secretproxy:kept_grants to pg
-- requires: adoption
-- requires: secrets_table
-- requires: encrypted_secrets
-- requires: encrypt_fields
-- Everybody can do what they could before the original modules were adopted: what a role had by owning them, and what it had because PUBLIC
-- may execute a function that nobody revoked, it has by a grant. Not so ownership itself, TRIGGER and REFERENCES: with these, code of others
-- would run as one of the roles that own what is ours.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- Runs as whoever installs, who may be a member of our roles for as long as that takes: what a role has by one of them does not count.
CREATE OR REPLACE FUNCTION secretproxy.keep_grant(object_kind pg_catalog.text, object_name pg_catalog.text, role pg_catalog.name, wanted pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_acl pg_catalog.aclitem[] := CASE
        WHEN 'schema' OPERATOR(pg_catalog.=) object_kind THEN (SELECT coalesce(n.nspacl, pg_catalog.acldefault('n'::pg_catalog."char", n.nspowner)) FROM pg_catalog.pg_namespace n
                             WHERE n.oid OPERATOR(pg_catalog.=) object_name::pg_catalog.regnamespace::pg_catalog.oid)
        WHEN 'table' OPERATOR(pg_catalog.=) object_kind THEN (SELECT coalesce(c.relacl, pg_catalog.acldefault('r'::pg_catalog."char", c.relowner)) FROM pg_catalog.pg_class c
                            WHERE c.oid OPERATOR(pg_catalog.=) object_name::pg_catalog.regclass::pg_catalog.oid)
        ELSE (SELECT coalesce(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner)) FROM pg_catalog.pg_proc p
               WHERE p.oid OPERATOR(pg_catalog.=) object_name::pg_catalog.regprocedure::pg_catalog.oid) END;
BEGIN
    IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) role)
       OR EXISTS (
        SELECT FROM pg_catalog.aclexplode(v_acl) x
         WHERE x.privilege_type OPERATOR(pg_catalog.=) wanted
           AND (x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid
                OR pg_catalog.pg_has_role(role, x.grantee, 'USAGE')
                   AND x.grantee OPERATOR(pg_catalog.<>) ALL (ARRAY[
                        'secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables']::pg_catalog.regrole[]::pg_catalog.oid[])))
    THEN
        RETURN;
    END IF;
    EXECUTE pg_catalog.format('GRANT %s ON %s %s TO %I', wanted, object_kind, object_name, role);
    INSERT INTO secretproxy.kept_grants (kind, object, grantee, privilege) VALUES (object_kind, object_name, role, wanted) ON CONFLICT DO NOTHING;
END
$body$;
ALTER FUNCTION secretproxy.keep_grant(pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.text) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.keep_grant(pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.text) FROM PUBLIC;

-- Grants a role that owns nothing the rights of an owner of the original modules, except TRIGGER and REFERENCES.
CREATE OR REPLACE FUNCTION secretproxy.keep_owner_rights(role pg_catalog.name) RETURNS pg_catalog.void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT secretproxy.keep_grant('schema', s.name, role, p.name)
      FROM (VALUES ('encrypted_secrets'), ('secrets_schema')) s (name), (VALUES ('USAGE'), ('CREATE')) p (name);
    SELECT secretproxy.keep_grant('table', 'secrets_schema.secrets_table', role, p.name)
      FROM pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p (name);
    SELECT secretproxy.keep_grant('function', p.oid::pg_catalog.regprocedure::pg_catalog.text, role, 'EXECUTE')
      FROM pg_catalog.pg_proc p
     WHERE p.pronamespace OPERATOR(pg_catalog.=) 'encrypted_secrets'::pg_catalog.regnamespace::pg_catalog.oid
       AND p.proowner OPERATOR(pg_catalog.=) 'secretproxy_api'::pg_catalog.regrole::pg_catalog.oid;
$body$;
COMMENT ON FUNCTION secretproxy.keep_owner_rights(pg_catalog.name) IS 'Grants a role what an owner of the original modules can do, without owning anything';
ALTER FUNCTION secretproxy.keep_owner_rights(pg_catalog.name) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.keep_owner_rights(pg_catalog.name) FROM PUBLIC;

-- Grants the former owner of a schema or of the table the rights that it had by ACL or, without one, by default.
DO $do$
DECLARE
    v_kind pg_catalog.text;
    v_object pg_catalog.text;
    v_owner pg_catalog.name;
    v_privilege pg_catalog.text;
BEGIN
    FOR v_kind, v_object, v_owner, v_privilege IN
        SELECT a.kind, a.object, a.owner, x.privilege_type
          FROM secretproxy.adopted a JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.owner,
               LATERAL pg_catalog.aclexplode(coalesce(a.acl, pg_catalog.acldefault(
                   CASE WHEN a.kind OPERATOR(pg_catalog.=) 'schema' THEN 'n'::pg_catalog."char" ELSE 'r'::pg_catalog."char" END, r.oid))) x
         WHERE (a.kind OPERATOR(pg_catalog.=) 'table' OR a.kind OPERATOR(pg_catalog.=) 'schema' AND a.object OPERATOR(pg_catalog.<>) 'jwt_public')
           AND x.grantee OPERATOR(pg_catalog.=) r.oid AND x.privilege_type OPERATOR(pg_catalog.<>) ALL (ARRAY['TRIGGER', 'REFERENCES'])
    LOOP
        PERFORM secretproxy.keep_grant(v_kind, v_object, v_owner, v_privilege);
    END LOOP;
END
$do$;

-- Finds the roles that could execute a function and had the rights that it needs, because the original's functions run as their caller:
-- USAGE of both schemas and, on the table, what the function does there. It asks this of every role that a grant names or that owned
-- something; members have the rights through these.
DO $do$
DECLARE
    v_function pg_catalog.text;
    v_role pg_catalog.name;
BEGIN
    FOR v_function, v_role IN
        WITH adopted (kind, object, owner, acl) AS (
            SELECT a.kind, a.object, r.oid,
                   coalesce(a.acl, pg_catalog.acldefault(CASE WHEN a.kind OPERATOR(pg_catalog.=) 'schema' THEN 'n'::pg_catalog."char" WHEN a.kind OPERATOR(pg_catalog.=) 'table' THEN 'r'::pg_catalog."char"
                                                                     ELSE 'f'::pg_catalog."char" END, r.oid))
              FROM secretproxy.adopted a JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.owner
        ), named (role) AS (
            SELECT a.owner FROM adopted a
            UNION
            SELECT x.grantee FROM adopted a, LATERAL pg_catalog.aclexplode(a.acl) x WHERE x.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
        ), able (role, object, privilege) AS (
            SELECT DISTINCT r.oid, a.object, x.privilege_type
              FROM named n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.role, adopted a, LATERAL pg_catalog.aclexplode(a.acl) x
             WHERE x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR pg_catalog.pg_has_role(r.oid, x.grantee, 'USAGE')
        )
        SELECT f.object, e.role::pg_catalog.regrole::pg_catalog.text
          FROM adopted f JOIN able e ON e.object OPERATOR(pg_catalog.=) f.object AND e.privilege OPERATOR(pg_catalog.=) 'EXECUTE'
         WHERE f.kind OPERATOR(pg_catalog.=) 'function' AND pg_catalog.starts_with(f.object, 'encrypted_secrets.')
           AND EXISTS (SELECT FROM able u WHERE u.role OPERATOR(pg_catalog.=) e.role AND u.object OPERATOR(pg_catalog.=) 'encrypted_secrets'
                                            AND u.privilege OPERATOR(pg_catalog.=) 'USAGE')
           AND (f.object OPERATOR(pg_catalog.~) '^encrypted_secrets[.]encrypt_field_(set|bytea_to_text|pgp_get|crypt|pgp)[(]'
                OR EXISTS (SELECT FROM able u WHERE u.role OPERATOR(pg_catalog.=) e.role AND u.object OPERATOR(pg_catalog.=) 'secrets_schema'
                                                AND u.privilege OPERATOR(pg_catalog.=) 'USAGE')
                   AND EXISTS (SELECT FROM able u WHERE u.role OPERATOR(pg_catalog.=) e.role AND u.object OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'
                                                    AND u.privilege OPERATOR(pg_catalog.=) CASE
                                                        WHEN f.object OPERATOR(pg_catalog.~) 'secrets_(table_)?upsert[(]' THEN 'INSERT'
                                                        WHEN f.object OPERATOR(pg_catalog.~) 'secrets_delete[(]' THEN 'DELETE'
                                                        ELSE 'SELECT' END))
         ORDER BY 1, 2
    LOOP
        PERFORM secretproxy.keep_grant('function', v_function, v_role, 'EXECUTE');
    END LOOP;
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('kept_grants', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
