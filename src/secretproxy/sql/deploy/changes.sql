-- Deploy secretproxy:changes to pg
-- Records what is deployed. Each deploy script enters itself with its own digest, whichever tool runs it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS secretproxy;
-- Refuses a schema that somebody else made: its tables, triggers and functions may wait for the role that installs.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
                WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy' AND NOT r.rolsuper
                  AND r.rolname OPERATOR(pg_catalog.<>) ALL (ARRAY['secretproxy_owner'::pg_catalog.name, session_user])) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'schema secretproxy is there and belongs to another role, who can have put code into it',
            HINT = 'Drop or rename it.';
    END IF;
END
$do$;
COMMENT ON SCHEMA secretproxy IS 'secretproxy: access log, key ring, settings';

CREATE TABLE IF NOT EXISTS secretproxy.changes (
    change pg_catalog.text PRIMARY KEY,
    digest pg_catalog.text NOT NULL,
    deployed_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    deployed_by pg_catalog.name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE secretproxy.changes IS 'The changes of the sqitch project that are deployed, with the digest of each deploy script';

-- ALTER DEFAULT PRIVILEGES of whoever installs, or of anybody, gives others rights on what these scripts make, keys among it. Each script takes
-- them away before it commits. What it looks at is ours: schema secretproxy, the table of secrets where it was not there before, CREATE on schemas.
CREATE OR REPLACE FUNCTION secretproxy.drop_default_grants() RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_what pg_catalog.text;
    v_role pg_catalog.text;
    v_adopted pg_catalog.text[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_default_acl) THEN
        RETURN;
    END IF;
    IF pg_catalog.to_regclass('secretproxy.adopted') IS NOT NULL THEN
        SELECT coalesce(pg_catalog.array_agg(a.object), v_adopted) INTO v_adopted FROM secretproxy.adopted a;
    END IF;
    FOR v_what, v_role IN
        WITH named AS (
            SELECT DISTINCT x.grantee FROM pg_catalog.pg_default_acl d, LATERAL pg_catalog.aclexplode(d.defaclacl) x
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) x.grantee
                                  AND pg_catalog.starts_with(r.rolname::pg_catalog.text, 'secretproxy_'))
        ), things (what, owner, acl) AS (
            SELECT pg_catalog.concat(CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END, c.oid::pg_catalog.regclass), c.relowner, c.relacl
              FROM pg_catalog.pg_class c
             WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'f', 'S']::pg_catalog."char"[])
               AND (c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('secretproxy')::pg_catalog.oid
                    OR c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secrets_schema.secrets_table')::pg_catalog.oid
                       AND 'secrets_schema.secrets_table' OPERATOR(pg_catalog.<>) ALL (v_adopted))
            UNION ALL
            SELECT pg_catalog.concat('ROUTINE ', p.oid::pg_catalog.regprocedure), p.proowner, p.proacl FROM pg_catalog.pg_proc p
             WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('secretproxy')::pg_catalog.oid
                OR p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure('secrets_schema.tg_hash_secrets()')::pg_catalog.oid
            UNION ALL
            SELECT pg_catalog.concat('SCHEMA ', n.oid::pg_catalog.regnamespace), n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n
             WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public']::pg_catalog.name[])
               AND n.nspname::pg_catalog.text OPERATOR(pg_catalog.<>) ALL (v_adopted)
        )
        SELECT DISTINCT pg_catalog.concat(CASE WHEN pg_catalog.starts_with(t.what, 'SCHEMA ') THEN 'CREATE' ELSE 'ALL' END, ' ON ', t.what),
               CASE WHEN x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE n.grantee::pg_catalog.regrole::pg_catalog.text END
          FROM things t, LATERAL pg_catalog.aclexplode(t.acl) x JOIN named n ON n.grantee OPERATOR(pg_catalog.=) x.grantee
         WHERE x.grantee OPERATOR(pg_catalog.<>) t.owner
           -- Each script decides what everybody may execute.
           AND NOT (x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND pg_catalog.starts_with(t.what, 'ROUTINE '))
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s FROM %s CASCADE', v_what, v_role);
    END LOOP;
END
$body$;
COMMENT ON FUNCTION secretproxy.drop_default_grants() IS 'Takes away what default privileges gave others on what is ours';
REVOKE ALL ON FUNCTION secretproxy.drop_default_grants() FROM PUBLIC;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('changes', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
