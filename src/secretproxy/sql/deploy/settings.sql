-- Deploy secretproxy:settings to pg
-- requires: roles

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.settings (
    direct_calls text NOT NULL DEFAULT 'log' CHECK (direct_calls IN ('log', 'refuse')),
    owner_check text NOT NULL DEFAULT 'off' CHECK (owner_check IN ('off', 'jwt')),
    crypt_cost int NOT NULL DEFAULT 8 CHECK (crypt_cost BETWEEN 4 AND 31),
    keyring text NOT NULL DEFAULT 'internal' CHECK (keyring = 'internal'),
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
-- What the proxy's limits.max_name and monitor.name_patterns are, for the rows that the functions write themselves.
ALTER TABLE secretproxy.settings
    ADD COLUMN IF NOT EXISTS max_name int NOT NULL DEFAULT 200 CHECK (max_name > 0),
    ADD COLUMN IF NOT EXISTS name_pattern text NOT NULL
        DEFAULT 'sk_(live|test)_|gh[pousr]_[A-Za-z0-9]|xox[abprs]-|AKIA[0-9A-Z]{12}|-----BEGIN |eyJ[A-Za-z0-9_-]{8,}\.|://[^/\s:]+:[^/\s@]+@'
        CHECK (('' ~ name_pattern) IS NOT NULL);
ALTER TABLE secretproxy.settings OWNER TO secretproxy_owner;
-- For doctor: what is set here is no secret.
GRANT SELECT ON secretproxy.settings TO secretproxy_auditor;
COMMENT ON TABLE secretproxy.settings IS 'One row, read by the encrypted_secrets functions, changed with UPDATE';
COMMENT ON COLUMN secretproxy.settings.direct_calls IS 'A call that did not come through the proxy: log it, or refuse it';
COMMENT ON COLUMN secretproxy.settings.owner_check IS 'jwt: a member of authenticated may only name jwt_public.current_user_id() as owner';
COMMENT ON COLUMN secretproxy.settings.crypt_cost IS 'bcrypt cost of passwords stored from now on';
COMMENT ON COLUMN secretproxy.settings.max_name IS 'Bytes of the longest secret name that a direct call''s row holds in clear';
COMMENT ON COLUMN secretproxy.settings.name_pattern IS 'A secret name that this regular expression finds stands in a direct call''s row as a digest';
COMMENT ON COLUMN secretproxy.settings.keyring IS 'Where the keys of the values are kept: internal, in secretproxy.keyring';

CREATE OR REPLACE FUNCTION secretproxy.check_settings() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF NEW.keyring IS DISTINCT FROM 'internal' THEN
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

INSERT INTO secretproxy.settings DEFAULT VALUES ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('settings', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
