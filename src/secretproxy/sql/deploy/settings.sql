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
ALTER TABLE secretproxy.settings OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.settings IS 'One row, read by the encrypted_secrets functions, changed with UPDATE';
COMMENT ON COLUMN secretproxy.settings.direct_calls IS 'A call that did not come through the proxy: log it, or refuse it';
COMMENT ON COLUMN secretproxy.settings.owner_check IS 'jwt: a member of authenticated may only name jwt_public.current_user_id() as owner';
COMMENT ON COLUMN secretproxy.settings.crypt_cost IS 'bcrypt cost of passwords stored from now on';
COMMENT ON COLUMN secretproxy.settings.keyring IS 'Where the keys of the values are kept: internal, in secretproxy.keyring';

INSERT INTO secretproxy.settings DEFAULT VALUES ON CONFLICT DO NOTHING;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('settings', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
