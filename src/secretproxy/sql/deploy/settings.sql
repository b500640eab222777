-- Deploy secretproxy:settings to pg
-- requires: roles
-- requires: adoption

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.settings (
    direct_calls pg_catalog.text NOT NULL DEFAULT 'refuse' CHECK (direct_calls OPERATOR(pg_catalog.=) ANY (ARRAY['log', 'refuse'])),
    owner_check pg_catalog.text NOT NULL DEFAULT 'off' CHECK (owner_check OPERATOR(pg_catalog.=) ANY (ARRAY['off', 'jwt'])),
    crypt_cost int NOT NULL DEFAULT 8 CHECK (crypt_cost OPERATOR(pg_catalog.>=) 4 AND crypt_cost OPERATOR(pg_catalog.<=) 31),
    keyring pg_catalog.text NOT NULL DEFAULT 'internal' CHECK (keyring OPERATOR(pg_catalog.=) 'internal'),
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
-- Adds the proxy's limits.max_name and monitor.name_patterns, for the rows that the functions write themselves.
ALTER TABLE secretproxy.settings
    ADD COLUMN IF NOT EXISTS max_name int NOT NULL DEFAULT 200 CHECK (max_name OPERATOR(pg_catalog.>) 0),
    ADD COLUMN IF NOT EXISTS name_pattern pg_catalog.text NOT NULL
        DEFAULT 'sk_(live|test)_|gh[pousr]_[A-Za-z0-9]|xox[abprs]-|AKIA[0-9A-Z]{12}|-----BEGIN |eyJ[A-Za-z0-9_-]{8,}\.|://[^/\s:]+:[^/\s@]+@'
        CHECK (('' OPERATOR(pg_catalog.~) name_pattern) IS NOT NULL),
    ADD COLUMN IF NOT EXISTS backend_types pg_catalog.text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS jwt_source pg_catalog.text NOT NULL DEFAULT 'jwt.claims.user_id'
        CHECK (jwt_source OPERATOR(pg_catalog.=) ANY (ARRAY['jwt.claims.user_id', 'request.jwt.claims'])),
    ADD COLUMN IF NOT EXISTS write_format int NOT NULL DEFAULT 2 CHECK (write_format OPERATOR(pg_catalog.=) ANY (ARRAY[1, 2])),
    ALTER COLUMN direct_calls SET DEFAULT 'refuse';
ALTER TABLE secretproxy.settings OWNER TO secretproxy_owner;
-- For doctor: what is set here is no secret.
GRANT SELECT ON secretproxy.settings TO secretproxy_auditor;
COMMENT ON TABLE secretproxy.settings IS 'One row, read by the encrypted_secrets functions, changed with UPDATE';
COMMENT ON COLUMN secretproxy.settings.direct_calls IS 'A call that did not come through the proxy: log it, or refuse it';
COMMENT ON COLUMN secretproxy.settings.owner_check IS 'jwt: whoever is a member of authenticated, by session or role, may only name jwt_public.current_user_id() as owner';
COMMENT ON COLUMN secretproxy.settings.backend_types IS 'Kinds of background process (pg_stat_activity.backend_type) whose calls are let through, as direct ones';
COMMENT ON COLUMN secretproxy.settings.jwt_source IS 'request.jwt.claims: where jwt.claims.user_id is not set, jwt_public.current_user_id() is sub of these claims';
COMMENT ON COLUMN secretproxy.settings.write_format IS '1: values are stored as the original module stored them, for applications that read secrets_value_field themselves';
COMMENT ON COLUMN secretproxy.settings.crypt_cost IS 'bcrypt cost of passwords stored from now on';
COMMENT ON COLUMN secretproxy.settings.max_name IS 'Bytes of the longest secret name that a direct call''s row holds in clear';
COMMENT ON COLUMN secretproxy.settings.name_pattern IS 'A secret name that this regular expression finds stands in a direct call''s row as a digest';
COMMENT ON COLUMN secretproxy.settings.keyring IS 'Where the keys of the values are kept: internal, in secretproxy.keyring';

CREATE OR REPLACE FUNCTION secretproxy.check_settings() RETURNS pg_catalog.trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF (NEW.keyring OPERATOR(pg_catalog.=) 'internal') IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'keyring must be internal: keys kept outside the database are not offered',
            HINT = 'docs/operations.md says why, under Keys.';
    END IF;
    RETURN NEW;
END
$body$;
ALTER FUNCTION secretproxy.check_settings() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.check_settings() FROM PUBLIC;
CREATE OR REPLACE TRIGGER check_settings BEFORE INSERT OR UPDATE ON secretproxy.settings
    FOR EACH ROW EXECUTE FUNCTION secretproxy.check_settings();

-- Over the original modules, applications call directly until their DSNs are changed. A new installation has no such applications.
INSERT INTO secretproxy.settings (direct_calls)
SELECT CASE WHEN EXISTS (SELECT FROM secretproxy.adopted WHERE kind OPERATOR(pg_catalog.=) 'function') THEN 'log' ELSE 'refuse' END
ON CONFLICT DO NOTHING;

-- Returns what the role that holds the keys needs of the settings. It reads them by this function, so that nothing attached to the
-- settings runs as that role.
DROP FUNCTION IF EXISTS secretproxy.settings_now(); -- another version gives other columns
CREATE FUNCTION secretproxy.settings_now(
    OUT direct_calls pg_catalog.text, OUT owner_check pg_catalog.text, OUT crypt_cost int, OUT max_name int, OUT name_pattern pg_catalog.text, OUT backend_types pg_catalog.text[],
    OUT write_format int
) RETURNS SETOF pg_catalog.record
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT s.direct_calls, s.owner_check, s.crypt_cost, s.max_name, s.name_pattern, s.backend_types, s.write_format
      FROM secretproxy.settings s
$body$;
ALTER FUNCTION secretproxy.settings_now() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.settings_now() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.settings_now() TO secretproxy_keys;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('settings', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
