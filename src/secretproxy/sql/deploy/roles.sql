-- Deploy secretproxy:roles to pg
-- requires: changes
-- Roles belong to the cluster: another database, or the application itself, may have made them already.
-- Four own what is ours, and none of them is a member of another:
--   secretproxy_api     the functions that clients call. May have values sealed, opened and testified to; owns no table and touches none.
--   secretproxy_keys    keys, and the functions that seal, open and testify. Only the API calls them. Touches no table but its own.
--   secretproxy_tables  the table of secrets and the functions that read and write it. Whatever an application attaches to that table
--                       runs as this role at most: it can have nothing opened, sealed or testified to, reads no key, writes no log.
--   secretproxy_owner   the schema, the access log, settings.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $do$
DECLARE
    v_role pg_catalog.text;
    v_new pg_catalog.text[] := '{}';
BEGIN
    FOREACH v_role IN ARRAY ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables',
                                  'secretproxy_writer', 'secretproxy_auditor', 'anonymous', 'authenticated', 'administrator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) v_role) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', v_role);
                v_new := v_new OPERATOR(pg_catalog.||) v_role;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- an installer in another database of this cluster was faster
            END;
        END IF;
    END LOOP;
    IF 'administrator' OPERATOR(pg_catalog.=) ANY (v_new) THEN
        BEGIN
            GRANT anonymous, authenticated TO administrator;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING 'administrator is no member of anonymous and authenticated: another role made those';
        END;
    END IF;
    -- Only a superuser may say some of these, even where they say what is so.
    FOR v_role IN SELECT r.rolname FROM pg_catalog.pg_roles r
                   WHERE r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables'])
                     AND (r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls) LOOP
        EXECUTE pg_catalog.format('ALTER ROLE %I NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS', v_role);
    END LOOP;
    -- The start and the kind of a session that another role opened are hidden from everybody else, and testimony is bound to them.
    FOREACH v_role IN ARRAY ARRAY['secretproxy_owner', 'secretproxy_keys'] LOOP
        IF NOT pg_catalog.pg_has_role(v_role, 'pg_read_all_stats', 'USAGE') THEN
            EXECUTE pg_catalog.format('GRANT pg_read_all_stats TO %I', v_role);
        END IF;
    END LOOP;
END
$do$;

ALTER SCHEMA secretproxy OWNER TO secretproxy_owner;
REVOKE ALL ON SCHEMA secretproxy FROM PUBLIC;
GRANT USAGE ON SCHEMA secretproxy TO PUBLIC;
ALTER TABLE secretproxy.changes OWNER TO secretproxy_owner;

ALTER FUNCTION secretproxy.drop_default_grants() OWNER TO secretproxy_owner;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('roles', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
