-- Deploy secretproxy:context to pg
-- requires: testimony_key
-- requires: keyring
-- requires: settings
-- Holds in one row what each call needs of the settings and the newest keys, so that a call makes one look-up. Triggers keep it up to date.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- An older version's row had other columns; it is made anew from the tables below.
DO $do$
BEGIN
    IF pg_catalog.to_regclass('secretproxy.context') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secretproxy.context') AND attname OPERATOR(pg_catalog.=) 'write_format') THEN
        DROP TABLE secretproxy.context CASCADE; -- with the internal functions that take its row; later changes make them again
    END IF;
END
$do$;
CREATE TABLE IF NOT EXISTS secretproxy.context (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    testimony_version int NOT NULL,
    testimony_head pg_catalog.text NOT NULL,
    testimony_inner pg_catalog.bytea NOT NULL,
    testimony_outer pg_catalog.bytea NOT NULL,
    ring_version int NOT NULL,
    ring_inner pg_catalog.bytea NOT NULL,
    ring_outer pg_catalog.bytea NOT NULL,
    ring_prefix pg_catalog.bytea NOT NULL,
    -- The mark by which secretproxy.stored_secret() hands over a pgp value that the newest key sealed.
    ring_mark pg_catalog.bytea NOT NULL,
    direct_calls pg_catalog.text NOT NULL,
    owner_check pg_catalog.text NOT NULL,
    crypt_cost int NOT NULL,
    -- The encoding in which text becomes bytes: UTF-8, except in a database in SQL_ASCII, which knows no characters.
    charset pg_catalog.name NOT NULL,
    max_name int NOT NULL,
    name_pattern pg_catalog.text NOT NULL,
    backend_types pg_catalog.text[] NOT NULL,
    write_format int NOT NULL,
    -- What a usual call needs, and NULL in a row that an older version made: such a call is not a usual one. `usual_mark` is ring_mark where
    -- any owner's secrets may be used (owner_check).
    testimony_key pg_catalog.bytea,
    ring_key pg_catalog.bytea,
    usual_mark pg_catalog.bytea
);
DO $do$
BEGIN
    -- Looked at first: ALTER TABLE waits for every call.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=) 'secretproxy.context'::pg_catalog.regclass AND attname OPERATOR(pg_catalog.=) 'usual_mark') THEN
        ALTER TABLE secretproxy.context ADD COLUMN testimony_key pg_catalog.bytea, ADD COLUMN ring_key pg_catalog.bytea, ADD COLUMN usual_mark pg_catalog.bytea;
    END IF;
END
$do$;
ALTER TABLE secretproxy.context OWNER TO secretproxy_keys;
REVOKE ALL ON secretproxy.context FROM PUBLIC;
COMMENT ON TABLE secretproxy.context IS 'One row made of settings and the newest keys; kept by triggers, never edited';

CREATE OR REPLACE FUNCTION secretproxy.refresh_context() RETURNS pg_catalog.trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- Two changes at once: the later one must see what the earlier one wrote.
    LOCK TABLE secretproxy.context IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO secretproxy.context AS c
    SELECT true, t.version, 'SPX1 ' OPERATOR(pg_catalog.||) t.version, t.inner_pad, t.outer_pad, r.version, r.inner_pad, r.outer_pad, r.prefix, pg_catalog.decode('70', 'hex') OPERATOR(pg_catalog.||) r.prefix,
           s.direct_calls, s.owner_check, s.crypt_cost,
           CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'SQL_ASCII' THEN 'SQL_ASCII'::pg_catalog.name ELSE 'UTF8'::pg_catalog.name END,
           s.max_name, s.name_pattern, s.backend_types, s.write_format, t.key, r.key,
           CASE WHEN s.owner_check OPERATOR(pg_catalog.=) 'off' THEN pg_catalog.decode('70', 'hex') OPERATOR(pg_catalog.||) r.prefix END
      FROM (SELECT * FROM secretproxy.testimony_key WHERE retired_at IS NULL AND active ORDER BY version DESC LIMIT 1) t,
           (SELECT * FROM secretproxy.keyring WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1) r,
           secretproxy.settings_now() s
    ON CONFLICT (only_row) DO UPDATE
       SET testimony_version = EXCLUDED.testimony_version, testimony_head = EXCLUDED.testimony_head, testimony_inner = EXCLUDED.testimony_inner,
           testimony_outer = EXCLUDED.testimony_outer, ring_version = EXCLUDED.ring_version, ring_inner = EXCLUDED.ring_inner,
           ring_outer = EXCLUDED.ring_outer, ring_prefix = EXCLUDED.ring_prefix, ring_mark = EXCLUDED.ring_mark, direct_calls = EXCLUDED.direct_calls,
           owner_check = EXCLUDED.owner_check, crypt_cost = EXCLUDED.crypt_cost,
           charset = EXCLUDED.charset, max_name = EXCLUDED.max_name, name_pattern = EXCLUDED.name_pattern,
           backend_types = EXCLUDED.backend_types, write_format = EXCLUDED.write_format, testimony_key = EXCLUDED.testimony_key,
           ring_key = EXCLUDED.ring_key, usual_mark = EXCLUDED.usual_mark;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = 'one key of secretproxy.keyring must not be retired, one of secretproxy.testimony_key must be active, and secretproxy.settings keeps its row';
    END IF;
    RETURN NULL;
END
$body$;
ALTER FUNCTION secretproxy.refresh_context() OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.refresh_context() FROM PUBLIC;

CREATE OR REPLACE TRIGGER refresh_context AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON secretproxy.settings
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.refresh_context();
CREATE OR REPLACE TRIGGER refresh_context AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON secretproxy.keyring
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.refresh_context();
CREATE OR REPLACE TRIGGER refresh_context AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON secretproxy.testimony_key
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.refresh_context();
UPDATE secretproxy.settings SET only_row = true;
-- The planner takes a table that was never looked at for ten pages of rows.
ANALYZE secretproxy.context;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('context', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
