-- Deploy secretproxy:adoption to pg
-- requires: roles
-- Remembers what an existing install of the original modules looks like before it is replaced in place,
-- so that a revert can put it back. What is ours already is not remembered.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.adopted (
    kind pg_catalog.text NOT NULL CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['function', 'table', 'schema'])),
    object pg_catalog.text NOT NULL,
    owner pg_catalog.name NOT NULL,
    definition pg_catalog.text,
    acl pg_catalog.aclitem[],
    extension pg_catalog.name,
    adopted_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (kind, object)
);
ALTER TABLE secretproxy.adopted OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.adopted IS 'What stood here before install: definitions, owners and grants that a revert puts back';

CREATE TABLE IF NOT EXISTS secretproxy.kept_grants (
    kind pg_catalog.text NOT NULL CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['schema', 'table', 'function'])),
    object pg_catalog.text NOT NULL,
    grantee pg_catalog.name NOT NULL,
    privilege pg_catalog.text NOT NULL,
    granted_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (kind, object, grantee, privilege)
);
ALTER TABLE secretproxy.kept_grants OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.kept_grants FROM PUBLIC;
GRANT SELECT ON secretproxy.kept_grants TO secretproxy_auditor; -- for doctor
COMMENT ON TABLE secretproxy.kept_grants IS 'Grants in the place of what a role had by owning the original modules; a revert takes them back';

INSERT INTO secretproxy.adopted (kind, object, owner, acl, extension)
SELECT 'schema', pg_catalog.quote_ident(n.nspname), pg_catalog.pg_get_userbyid(n.nspowner), n.nspacl,
       (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) n.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
FROM pg_catalog.pg_namespace n
WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['encrypted_secrets', 'secrets_schema', 'jwt_public'])
  AND n.nspowner OPERATOR(pg_catalog.<>) 'secretproxy_owner'::pg_catalog.regrole
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.adopted (kind, object, owner, acl, extension)
SELECT 'table', c.oid::pg_catalog.regclass::pg_catalog.text, pg_catalog.pg_get_userbyid(c.relowner), c.relacl,
       (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
FROM pg_catalog.pg_class c
WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secrets_schema.secrets_table')
  AND c.relowner OPERATOR(pg_catalog.<>) ALL (ARRAY['secretproxy_owner', 'secretproxy_tables']::pg_catalog.regrole[])
ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.adopted (kind, object, owner, definition, acl, extension)
SELECT 'function', p.oid::pg_catalog.regprocedure::pg_catalog.text, pg_catalog.pg_get_userbyid(p.proowner), pg_catalog.pg_get_functiondef(p.oid), p.proacl,
       (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE p.proowner OPERATOR(pg_catalog.<>) ALL (ARRAY['secretproxy_owner', 'secretproxy_api']::pg_catalog.regrole[])
  AND p.prokind OPERATOR(pg_catalog.=) 'f'
  AND ((n.nspname OPERATOR(pg_catalog.=) 'encrypted_secrets'
        AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['secrets_upsert', 'secrets_getter', 'secrets_verify', 'secrets_delete', 'secrets_table_upsert',
                          'encrypt_field_bytea_to_text', 'encrypt_field_crypt', 'encrypt_field_crypt_verify',
                          'encrypt_field_pgp', 'encrypt_field_pgp_get', 'encrypt_field_pgp_getter', 'encrypt_field_set']))
       OR (n.nspname OPERATOR(pg_catalog.=) 'secrets_schema' AND p.proname OPERATOR(pg_catalog.=) 'tg_hash_secrets')
       OR (n.nspname OPERATOR(pg_catalog.=) 'jwt_public' AND p.proname OPERATOR(pg_catalog.=) 'current_user_id' AND p.pronargs OPERATOR(pg_catalog.=) 0))
ON CONFLICT DO NOTHING;

-- A member of an extension is dropped with it, and a dump does not hold it: ours are no members until a revert.
DO $do$
DECLARE
    m record;
BEGIN
    FOR m IN SELECT a.kind, a.object, a.extension FROM secretproxy.adopted a
              JOIN pg_catalog.pg_extension e ON e.extname OPERATOR(pg_catalog.=) a.extension
              JOIN pg_catalog.pg_depend d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
               AND (d.classid, d.objid) OPERATOR(pg_catalog.=) (
                    CASE WHEN a.kind OPERATOR(pg_catalog.=) 'function' THEN 'pg_catalog.pg_proc'::pg_catalog.regclass WHEN a.kind OPERATOR(pg_catalog.=) 'table' THEN 'pg_catalog.pg_class'::pg_catalog.regclass ELSE 'pg_catalog.pg_namespace'::pg_catalog.regclass END,
                    CASE WHEN a.kind OPERATOR(pg_catalog.=) 'function' THEN pg_catalog.to_regprocedure(a.object)::pg_catalog.oid WHEN a.kind OPERATOR(pg_catalog.=) 'table' THEN pg_catalog.to_regclass(a.object)::pg_catalog.oid
                                ELSE pg_catalog.to_regnamespace(a.object)::pg_catalog.oid END)
             WHERE a.object OPERATOR(pg_catalog.<>) 'jwt_public' LOOP
        EXECUTE pg_catalog.format('ALTER EXTENSION %I DROP %s %s', m.extension, m.kind, m.object);
    END LOOP;
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('adoption', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
