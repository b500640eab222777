-- Revert secretproxy:secrets_table from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL check_function_bodies = off; -- a body is what it was, under the search_path of whoever calls it
-- Values go back to format 1, so that pgp_sym_decrypt with the owner's uuid reads them. Passwords that a verify
-- replaced become what they were. One that was stored in format 2 stays a bcrypt hash, of the SHA-256 of the password in
-- hexadecimal: nothing can turn it back.
-- No statement here touches the table: what an application has attached to it would run as whoever reverts. Triggers rest meanwhile, so that
-- nothing is sealed again.
ALTER TABLE secrets_schema.secrets_table DISABLE TRIGGER USER;
DO $do$
BEGIN
    -- Every value goes back, also those that a policy hides from the table's owner; at the end it is as it was.
    PERFORM pg_catalog.set_config('secretproxy.forced', c.relforcerowsecurity::pg_catalog.text, true) FROM pg_catalog.pg_class c
      WHERE c.oid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass;
    ALTER TABLE secrets_schema.secrets_table NO FORCE ROW LEVEL SECURITY;
END
$do$;
CREATE FUNCTION secretproxy.unseal() RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_id pg_catalog.uuid;
    v_owner pg_catalog.uuid;
    v_name pg_catalog.text;
    v_stored pg_catalog.bytea;
BEGIN
    FOR v_id, v_owner, v_name, v_stored IN SELECT s.id, s.owner, s.name, s.stored FROM secretproxy.sealed_rows() s LOOP
        PERFORM secretproxy.set_value(
            v_id, secretproxy.pgp_encrypt_1(secretproxy.open_secret(v_owner, v_name, v_stored), v_owner::pg_catalog.text));
    END LOOP;
    PERFORM secretproxy.restore_passwords();
    RETURN secretproxy.has_rows();
END
$body$;
-- What makes a materialized view is a security-restricted operation: whatever is attached to the table runs as the table's owner, and there
-- it can leave nothing for the commit (a deferred trigger, a cursor WITH HOLD), which would run as whoever reverts.
CREATE MATERIALIZED VIEW secretproxy.contained AS SELECT secretproxy.unseal() AS has_rows;
ALTER TABLE secrets_schema.secrets_table ENABLE TRIGGER USER;
DO $do$
DECLARE
    v_function pg_catalog.text;
    a record;
    v_definition pg_catalog.text;
    v_schemas pg_catalog.text[];
    v_rights pg_catalog.text[];
    g record;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['secrets_schema.tg_hash_secrets()'] LOOP
        SELECT * INTO a FROM secretproxy.adopted WHERE kind OPERATOR(pg_catalog.=) 'function' AND object OPERATOR(pg_catalog.=) v_function;
        IF FOUND THEN
            -- A definition may hold constants of an application's own types, and PostgreSQL makes values of them when it reads it. So a function of
            -- the owner that it had reads it, in a security-restricted operation (what makes a materialized view is one): nothing of it runs as
            -- whoever reverts.
            SELECT coalesce(pg_catalog.array_agg(n.nspname::pg_catalog.text), '{}'), coalesce(pg_catalog.array_agg(r.name), '{}') INTO v_schemas, v_rights
              FROM pg_catalog.pg_namespace n, pg_catalog.unnest(ARRAY['USAGE', 'CREATE']) r (name)
             WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public']::pg_catalog.name[])
               AND pg_catalog.pg_has_role(n.nspowner, 'USAGE') AND NOT pg_catalog.has_schema_privilege(a.owner, n.oid, r.name);
            FOR i IN 1..pg_catalog.cardinality(v_schemas) LOOP
                EXECUTE pg_catalog.format('GRANT %s ON SCHEMA %I TO %I', v_rights[i], v_schemas[i], a.owner);
            END LOOP;
            EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', v_function, a.owner);
            -- LEAKPROOF is a superuser's to say, whoever the function belongs to.
            v_definition := CASE WHEN (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) a.owner) THEN a.definition
                                 ELSE pg_catalog.regexp_replace(a.definition, E'(\\n LANGUAGE [^\\n]+\\n[^\\n]*) LEAKPROOF', E'\\1') END;
            EXECUTE pg_catalog.format(
                'CREATE FUNCTION secretproxy.define() RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS %L',
                pg_catalog.format('BEGIN EXECUTE %L; RETURN 1; END', v_definition));
            EXECUTE pg_catalog.format('ALTER FUNCTION secretproxy.define() OWNER TO %I', a.owner);
            EXECUTE 'CREATE MATERIALIZED VIEW secretproxy.defined AS SELECT secretproxy.define() AS done';
            EXECUTE 'DROP MATERIALIZED VIEW secretproxy.defined';
            EXECUTE 'DROP FUNCTION secretproxy.define()';
            IF v_definition OPERATOR(pg_catalog.<>) a.definition THEN
                IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER) THEN
                    EXECUTE pg_catalog.format('ALTER FUNCTION %s LEAKPROOF', v_function);
                ELSE
                    RAISE WARNING '% was LEAKPROOF, which only a superuser may set again', v_function;
                END IF;
            END IF;
            FOR i IN 1..pg_catalog.cardinality(v_schemas) LOOP
                EXECUTE pg_catalog.format('REVOKE %s ON SCHEMA %I FROM %I', v_rights[i], v_schemas[i], a.owner);
            END LOOP;
            EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, authenticated, anonymous', v_function);
            IF a.acl IS NULL THEN
                EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', v_function);
            ELSE
                FOR g IN SELECT CASE WHEN grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END AS who, is_grantable
                           FROM pg_catalog.aclexplode(a.acl) WHERE privilege_type OPERATOR(pg_catalog.=) 'EXECUTE' LOOP
                    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', v_function, g.who)
                        OPERATOR(pg_catalog.||) CASE WHEN g.is_grantable AND g.who OPERATOR(pg_catalog.<>) 'PUBLIC' THEN ' WITH GRANT OPTION' ELSE '' END;
                END LOOP;
            END IF;
        ELSE
            DROP TRIGGER IF EXISTS hash_secrets_insert ON secrets_schema.secrets_table;
            DROP TRIGGER IF EXISTS hash_secrets_update ON secrets_schema.secrets_table;
            DROP FUNCTION IF EXISTS secrets_schema.tg_hash_secrets();
        END IF;
    END LOOP;
END
$do$;

DROP TABLE secretproxy.replaced_password;
DROP FUNCTION IF EXISTS secretproxy.sealed_rows(), secretproxy.set_value(pg_catalog.uuid, pg_catalog.bytea), secretproxy.restore_passwords(),
    secretproxy.forget_password(pg_catalog.uuid);
DROP FUNCTION IF EXISTS secretproxy.seal_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text), secretproxy.open_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea),
    secretproxy.read_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea), secretproxy.check_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea), secretproxy.ring_prefix(),
    secretproxy.verify_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.text, pg_catalog.bytea);
DROP FUNCTION IF EXISTS secretproxy.seal(secretproxy.context, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.open_value(secretproxy.context, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea);
DROP FUNCTION IF EXISTS secretproxy.password_text(pg_catalog.bytea), secretproxy.take_time(int, int);
DROP FUNCTION IF EXISTS secretproxy.password_hash(pg_catalog.bytea, int);
DROP FUNCTION IF EXISTS secretproxy.value_key(pg_catalog.bytea, pg_catalog.bytea, pg_catalog.uuid, pg_catalog.text);
DO $do$
DECLARE
    v_owner pg_catalog.name := (SELECT owner FROM secretproxy.adopted WHERE kind OPERATOR(pg_catalog.=) 'table' AND object OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table');
    v_rows boolean := (SELECT c.has_rows FROM secretproxy.contained c);
    g record;
BEGIN
    DROP MATERIALIZED VIEW secretproxy.contained;
    DROP FUNCTION secretproxy.unseal(), secretproxy.has_rows();
    IF v_owner IS NULL AND NOT v_rows THEN
        DROP TABLE secrets_schema.secrets_table;
        RETURN;
    END IF;
    IF pg_catalog.current_setting('secretproxy.forced') OPERATOR(pg_catalog.=) 'true' THEN
        ALTER TABLE secrets_schema.secrets_table FORCE ROW LEVEL SECURITY;
    END IF;
    EXECUTE pg_catalog.format('ALTER TABLE secrets_schema.secrets_table OWNER TO %I', coalesce(v_owner, session_user));
    IF v_owner IS NULL THEN
        RETURN;
    END IF;
    -- What was granted since goes, what was granted before is there.
    FOR g IN SELECT CASE WHEN x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS who, x.privilege_type
               FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x
              WHERE c.oid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass AND x.grantee OPERATOR(pg_catalog.<>) c.relowner AND NOT EXISTS (
                    SELECT FROM secretproxy.adopted a, pg_catalog.aclexplode(a.acl) y
                     WHERE a.kind OPERATOR(pg_catalog.=) 'table' AND a.object OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'
                       AND y.grantee OPERATOR(pg_catalog.=) x.grantee AND y.privilege_type OPERATOR(pg_catalog.=) x.privilege_type) LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON secrets_schema.secrets_table FROM %s', g.privilege_type, g.who);
    END LOOP;
    FOR g IN SELECT CASE WHEN x.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END AS who, x.privilege_type,
                    CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
               FROM secretproxy.adopted a, pg_catalog.aclexplode(a.acl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) x.grantee
              WHERE a.kind OPERATOR(pg_catalog.=) 'table' AND a.object OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table' AND (x.grantee OPERATOR(pg_catalog.=) 0 OR r.rolname OPERATOR(pg_catalog.<>) v_owner) LOOP
        EXECUTE pg_catalog.format('GRANT %s ON secrets_schema.secrets_table TO %s', g.privilege_type, g.who) OPERATOR(pg_catalog.||) g.option;
    END LOOP;
END
$do$;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'secrets_table';
COMMIT;
