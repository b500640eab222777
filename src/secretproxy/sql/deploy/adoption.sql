-- Deploy secretproxy:adoption to pg
-- requires: roles
-- Remembers what an existing install of the original modules looks like before it is replaced in place,
-- so that a revert can put it back. What is ours already is not remembered.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.adopted (
    kind text NOT NULL CHECK (kind IN ('function', 'table', 'schema')),
    object text NOT NULL,
    owner name NOT NULL,
    definition text,
    acl aclitem[],
    extension name,
    adopted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, object)
);
ALTER TABLE secretproxy.adopted OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.adopted IS 'What stood here before install: definitions, owners and grants that a revert puts back';

CREATE TABLE IF NOT EXISTS secretproxy.kept_grants (
    kind text NOT NULL CHECK (kind IN ('schema', 'table', 'function')),
    object text NOT NULL,
    grantee name NOT NULL,
    privilege text NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, object, grantee, privilege)
);
ALTER TABLE secretproxy.kept_grants OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.kept_grants FROM PUBLIC;
GRANT SELECT ON secretproxy.kept_grants TO secretproxy_auditor; -- for doctor
COMMENT ON TABLE secretproxy.kept_grants IS 'Grants in the place of what a role had by owning the original modules; a revert takes them back';

INSERT INTO secretproxy.adopted (kind, object, owner, acl, extension)
SELECT 'schema', quote_ident(n.nspname), pg_get_userbyid(n.nspowner), n.nspacl,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
FROM pg_namespace n
WHERE n.nspname IN ('encrypted_secrets', 'secrets_schema', 'jwt_public')
  AND n.nspowner <> 'secretproxy_owner'::regrole
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.adopted (kind, object, owner, acl, extension)
SELECT 'table', c.oid::regclass::text, pg_get_userbyid(c.relowner), c.relacl,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
FROM pg_class c
WHERE c.oid = to_regclass('secrets_schema.secrets_table')
  AND c.relowner <> ALL (ARRAY['secretproxy_owner', 'secretproxy_tables']::regrole[])
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.adopted (kind, object, owner, definition, acl, extension)
SELECT 'function', p.oid::regprocedure::text, pg_get_userbyid(p.proowner), pg_get_functiondef(p.oid), p.proacl,
       (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.proowner <> ALL (ARRAY['secretproxy_owner', 'secretproxy_api']::regrole[])
  AND p.prokind = 'f'
  AND ((n.nspname = 'encrypted_secrets'
        AND p.proname IN ('secrets_upsert', 'secrets_getter', 'secrets_verify', 'secrets_delete', 'secrets_table_upsert',
                          'encrypt_field_bytea_to_text', 'encrypt_field_crypt', 'encrypt_field_crypt_verify',
                          'encrypt_field_pgp', 'encrypt_field_pgp_get', 'encrypt_field_pgp_getter', 'encrypt_field_set'))
       OR (n.nspname = 'secrets_schema' AND p.proname = 'tg_hash_secrets')
       OR (n.nspname = 'jwt_public' AND p.proname = 'current_user_id' AND p.pronargs = 0))
ON CONFLICT DO NOTHING;

-- A member of an extension is dropped with it, and a dump does not hold it: ours are no members until a revert.
DO $do$
DECLARE
    m record;
BEGIN
    FOR m IN SELECT a.kind, a.object, a.extension FROM secretproxy.adopted a
              JOIN pg_extension e ON e.extname = a.extension
              JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
               AND (d.classid, d.objid) = (
                    CASE a.kind WHEN 'function' THEN 'pg_proc'::regclass WHEN 'table' THEN 'pg_class'::regclass ELSE 'pg_namespace'::regclass END,
                    CASE a.kind WHEN 'function' THEN to_regprocedure(a.object)::oid WHEN 'table' THEN to_regclass(a.object)::oid
                                ELSE to_regnamespace(a.object)::oid END)
             WHERE a.object <> 'jwt_public' LOOP
        EXECUTE format('ALTER EXTENSION %I DROP %s %s', m.extension, m.kind, m.object);
    END LOOP;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('adoption', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
