-- Deploy secretproxy:roles to pg
-- requires: changes
-- Roles belong to the cluster: another database, or the application itself, may have made them already.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $do$
DECLARE
    v_role text;
    v_new text[] := '{}';
BEGIN
    FOREACH v_role IN ARRAY ARRAY['secretproxy_owner', 'secretproxy_writer', 'secretproxy_auditor',
                                  'anonymous', 'authenticated', 'administrator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
                v_new := v_new || v_role;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- an installer in another database of this cluster was faster
            END;
        END IF;
    END LOOP;
    IF 'administrator' = ANY (v_new) THEN
        GRANT anonymous, authenticated TO administrator;
    END IF;
    -- The start time of a session that another role opened is hidden from everybody else, and testimony is bound to it.
    IF NOT pg_has_role('secretproxy_owner', 'pg_read_all_stats', 'USAGE') THEN
        GRANT pg_read_all_stats TO secretproxy_owner;
    END IF;
END
$do$;

ALTER ROLE secretproxy_owner NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;

ALTER SCHEMA secretproxy OWNER TO secretproxy_owner;
REVOKE ALL ON SCHEMA secretproxy FROM PUBLIC;
GRANT USAGE ON SCHEMA secretproxy TO PUBLIC;
ALTER TABLE secretproxy.changes OWNER TO secretproxy_owner;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('roles', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
