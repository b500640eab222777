-- Revert secretproxy:encrypt_fields from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL check_function_bodies = off; -- a body is what it was, under the search_path of whoever calls it
DO $do$
DECLARE
    v_function pg_catalog.text;
    a record;
    v_definition pg_catalog.text;
    v_schemas pg_catalog.text[];
    v_rights pg_catalog.text[];
    g record;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['encrypted_secrets.encrypt_field_set(text)', 'encrypted_secrets.encrypt_field_bytea_to_text(bytea)',
        'encrypted_secrets.encrypt_field_crypt()', 'encrypted_secrets.encrypt_field_pgp()',
        'encrypted_secrets.encrypt_field_pgp_get(bytea,text)', 'encrypted_secrets.encrypt_field_pgp_getter(uuid,text,text)',
        'encrypted_secrets.encrypt_field_crypt_verify(uuid,text,text)', 'encrypted_secrets.secrets_table_upsert(uuid,json)'] LOOP
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
            EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS %s', v_function);
        END IF;
    END LOOP;
END
$do$;

DROP FUNCTION IF EXISTS secretproxy.column_text(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text, pg_catalog.text);
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'encrypt_fields';
COMMIT;
