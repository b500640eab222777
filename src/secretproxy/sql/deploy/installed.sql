-- Deploy secretproxy:installed to pg
-- requires: secrets_table
-- requires: encrypt_fields
-- requires: kept_grants
-- requires: key_rotation
-- requires: checkpoints
-- requires: review_indexes
-- requires: review_views
-- requires: unused_secrets
-- requires: key_proof
-- requires: kept_sums
-- Writes down the form of every object of ours at its installation, so that `secretproxy verify` can name later differences.
-- It is the last change of the plan, because it describes what the others made.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- Drops objects that older versions made and this one does not.
DROP TYPE IF EXISTS secretproxy.call_context CASCADE; -- with the internal functions that take it
DROP FUNCTION IF EXISTS secretproxy.column_text(secrets_schema.secrets_table, pg_catalog.text);
DROP FUNCTION IF EXISTS secretproxy.current_ring(), secretproxy.own_start(int), secretproxy.testify(pg_catalog.text, pg_catalog.text, pg_catalog.uuid, pg_catalog.text[], pg_catalog.text);

CREATE TABLE IF NOT EXISTS secretproxy.installed (
    kind pg_catalog.text NOT NULL,
    object pg_catalog.text NOT NULL,
    fact pg_catalog.text NOT NULL,
    value pg_catalog.text,
    PRIMARY KEY (kind, object, fact)
);
ALTER TABLE secretproxy.installed OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.installed FROM PUBLIC;
-- Code of others on the table of secrets that somebody has looked at: `secretproxy install --accept`.
CREATE TABLE IF NOT EXISTS secretproxy.accepted (
    object pg_catalog.text PRIMARY KEY,
    accepted_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    accepted_by pg_catalog.name NOT NULL DEFAULT session_user
);
ALTER TABLE secretproxy.accepted OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.accepted FROM PUBLIC;
GRANT SELECT ON secretproxy.accepted TO secretproxy_auditor; -- for doctor
COMMENT ON TABLE secretproxy.accepted IS 'Code of others on secrets_schema.secrets_table that install was told to accept';
COMMENT ON TABLE secretproxy.installed IS 'What every object looked like when it was installed; secretproxy verify compares';

-- Partitions come and go and are left out. Grants on what people are meant to be granted (functions of the API, views, schemas, the log)
-- count only as far as they are PUBLIC's or a role's that install knows; on everything else every grant counts.
CREATE OR REPLACE FUNCTION secretproxy.facts(OUT kind pg_catalog.text, OUT object pg_catalog.text, OUT fact pg_catalog.text, OUT value pg_catalog.text)
RETURNS SETOF pg_catalog.record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH ours (role) AS (
        SELECT r.oid FROM pg_catalog.pg_roles r
         WHERE r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables', 'secretproxy_writer',
                             'secretproxy_auditor', 'anonymous', 'authenticated', 'administrator'])
    ), spaces AS (
        SELECT n.* FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public'])
    ), relations AS (
        SELECT c.* FROM pg_catalog.pg_class c JOIN spaces n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE NOT c.relispartition AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'S', 'f', 'c'])
           AND (n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy', 'encrypted_secrets']) OR c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secrets_schema.secrets_table'))
        UNION ALL
        SELECT c.* FROM pg_catalog.pg_class c
         WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('public.secret_access_log') AND c.relowner OPERATOR(pg_catalog.=) 'secretproxy_owner'::pg_catalog.regrole
    ), functions AS (
        SELECT p.*, n.nspname FROM pg_catalog.pg_proc p JOIN spaces n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy', 'encrypted_secrets'])
            OR ((n.nspname OPERATOR(pg_catalog.=) 'secrets_schema' AND p.proname OPERATOR(pg_catalog.=) 'tg_hash_secrets') OR (n.nspname OPERATOR(pg_catalog.=) 'jwt_public' AND p.proname OPERATOR(pg_catalog.=) 'current_user_id'))
    ), grants AS (
        SELECT 'schema' AS kind, pg_catalog.quote_ident(n.nspname) AS object, coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)) AS acl, n.nspowner AS owner, true AS open
          FROM spaces n
        UNION ALL
        SELECT 'relation', c.oid::pg_catalog.regclass::pg_catalog.text, coalesce(c.relacl, pg_catalog.acldefault(CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S'::pg_catalog."char" THEN 's'::pg_catalog."char" ELSE 'r'::pg_catalog."char" END, c.relowner)),
               c.relowner, c.relkind OPERATOR(pg_catalog.=) 'v' OR c.relname OPERATOR(pg_catalog.=) ANY (ARRAY['access_log', 'checkpoints'])
          FROM relations c
        UNION ALL
        SELECT 'column', a.attrelid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(a.attname), a.attacl, c.relowner, false
          FROM relations c JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid WHERE a.attacl IS NOT NULL
        UNION ALL
        SELECT 'function', p.oid::pg_catalog.regprocedure::pg_catalog.text, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner, p.nspname OPERATOR(pg_catalog.<>) 'secretproxy'
          FROM functions p
    )
    SELECT 'role', r.rolname::pg_catalog.text, f.fact, f.value
      FROM pg_catalog.pg_roles r,
           LATERAL (VALUES ('superuser', r.rolsuper::pg_catalog.text), ('login', r.rolcanlogin::pg_catalog.text), ('bypassrls', r.rolbypassrls::pg_catalog.text),
                           ('createrole', r.rolcreaterole::pg_catalog.text), ('replication', r.rolreplication::pg_catalog.text),
                           ('memberships', (SELECT pg_catalog.string_agg(m.roleid::pg_catalog.regrole::pg_catalog.text, ', ' ORDER BY m.roleid::pg_catalog.regrole::pg_catalog.text)
                                              FROM (SELECT DISTINCT a.roleid FROM pg_catalog.pg_auth_members a WHERE a.member OPERATOR(pg_catalog.=) r.oid) m))) f (fact, value)
     WHERE r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables', 'secretproxy_writer',
                         'secretproxy_auditor'])
    UNION ALL
    SELECT 'schema', pg_catalog.quote_ident(n.nspname), 'owner', pg_catalog.pg_get_userbyid(n.nspowner) FROM spaces n
    UNION ALL
    SELECT 'relation', c.oid::pg_catalog.regclass::pg_catalog.text, f.fact, f.value
      FROM relations c,
           LATERAL (VALUES ('owner', pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text), ('kind', c.relkind::pg_catalog.text), ('persistence', c.relpersistence::pg_catalog.text),
                           ('row security', c.relrowsecurity OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) c.relforcerowsecurity), ('options', c.reloptions::pg_catalog.text),
                           ('definition', CASE WHEN c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['v', 'm']) THEN pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.pg_get_viewdef(c.oid), 'UTF8')), 'hex') END)
                   ) f (fact, value)
    UNION ALL
    SELECT 'column', c.oid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(a.attname), f.fact, f.value
      FROM relations c JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid OPERATOR(pg_catalog.=) c.oid AND d.adnum OPERATOR(pg_catalog.=) a.attnum,
           LATERAL (VALUES ('type', pg_catalog.format_type(a.atttypid, a.atttypmod)), ('not null', a.attnotnull::pg_catalog.text), ('generated', a.attgenerated::pg_catalog.text),
                           ('default', pg_catalog.pg_get_expr(d.adbin, d.adrelid))) f (fact, value)
     WHERE c.relkind OPERATOR(pg_catalog.<>) 'S'
    UNION ALL
    SELECT 'constraint', c.oid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(k.conname), f.fact, f.value
      FROM relations c JOIN pg_catalog.pg_constraint k ON k.conrelid OPERATOR(pg_catalog.=) c.oid AND k.contype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'f', 'p', 'u', 'x']),
           LATERAL (VALUES ('definition', pg_catalog.pg_get_constraintdef(k.oid)), ('validated', k.convalidated::pg_catalog.text)) f (fact, value)
    UNION ALL
    SELECT 'foreign key', k.conrelid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(k.conname), 'definition', pg_catalog.pg_get_constraintdef(k.oid)
      FROM pg_catalog.pg_constraint k WHERE k.contype OPERATOR(pg_catalog.=) 'f' AND k.confrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secrets_schema.secrets_table')
       AND k.conrelid OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT c.oid FROM relations c))
    UNION ALL
    SELECT 'index', i.indexrelid::pg_catalog.regclass::pg_catalog.text, f.fact, f.value
      FROM relations c JOIN pg_catalog.pg_index i ON i.indrelid OPERATOR(pg_catalog.=) c.oid,
           LATERAL (VALUES ('definition', pg_catalog.pg_get_indexdef(i.indexrelid)), ('valid', i.indisvalid::pg_catalog.text)) f (fact, value)
    UNION ALL
    SELECT 'trigger', c.oid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(t.tgname), f.fact, f.value
      FROM relations c JOIN pg_catalog.pg_trigger t ON t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal,
           LATERAL (VALUES ('definition', pg_catalog.pg_get_triggerdef(t.oid)), ('enabled', t.tgenabled::pg_catalog.text)) f (fact, value)
    UNION ALL
    SELECT 'rule', c.oid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(r.rulename), 'definition', pg_catalog.pg_get_ruledef(r.oid)
      FROM relations c JOIN pg_catalog.pg_rewrite r ON r.ev_class OPERATOR(pg_catalog.=) c.oid AND r.rulename OPERATOR(pg_catalog.<>) '_RETURN'
    UNION ALL
    SELECT 'policy', c.oid::pg_catalog.regclass OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(p.polname), 'definition',
           pg_catalog.concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::pg_catalog.text, pg_catalog.pg_get_expr(p.polqual, c.oid), pg_catalog.pg_get_expr(p.polwithcheck, c.oid))
      FROM relations c JOIN pg_catalog.pg_policy p ON p.polrelid OPERATOR(pg_catalog.=) c.oid
    UNION ALL
    SELECT 'function', p.oid::pg_catalog.regprocedure::pg_catalog.text, f.fact, f.value
      FROM functions p,
           LATERAL (VALUES ('owner', pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text), ('security definer', p.prosecdef::pg_catalog.text), ('volatility', p.provolatile::pg_catalog.text),
                           ('settings', p.proconfig::pg_catalog.text), ('parallel', p.proparallel::pg_catalog.text), ('leakproof', p.proleakproof::pg_catalog.text),
                           ('strict', p.proisstrict::pg_catalog.text), ('result', pg_catalog.pg_get_function_result(p.oid)), ('arguments', pg_catalog.pg_get_function_arguments(p.oid)),
                           ('language', (SELECT l.lanname::pg_catalog.text FROM pg_catalog.pg_language l WHERE l.oid OPERATOR(pg_catalog.=) p.prolang)),
                           ('body', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(p.prosrc OPERATOR(pg_catalog.||) coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), ''), 'UTF8')), 'hex'))) f (fact, value)
    UNION ALL
    SELECT g.kind, g.object, 'grant ' OPERATOR(pg_catalog.||) pg_catalog.lower(x.privilege_type) OPERATOR(pg_catalog.||) ' to ' OPERATOR(pg_catalog.||) coalesce(pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(CASE WHEN x.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid THEN x.grantee END)), 'PUBLIC'),
           x.is_grantable::pg_catalog.text
      FROM grants g, LATERAL (SELECT e.grantee, e.privilege_type, pg_catalog.bool_or(e.is_grantable) AS is_grantable
                                FROM pg_catalog.aclexplode(g.acl) e GROUP BY 1, 2) x
     WHERE x.grantee OPERATOR(pg_catalog.<>) g.owner AND (NOT g.open OR x.grantee OPERATOR(pg_catalog.=) 0 OR x.grantee OPERATOR(pg_catalog.=) ANY (SELECT role FROM ours))
    UNION ALL
    SELECT 'server', 'PostgreSQL', 'major version', (pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog./) 10000)::pg_catalog.text
$body$;
COMMENT ON FUNCTION secretproxy.facts() IS 'What every object looks like now';
ALTER FUNCTION secretproxy.facts() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.facts() FROM PUBLIC;

CREATE OR REPLACE FUNCTION secretproxy.record_facts() RETURNS pg_catalog.void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $body$
    DELETE FROM secretproxy.installed;
    INSERT INTO secretproxy.installed SELECT * FROM secretproxy.facts();
$body$;
COMMENT ON FUNCTION secretproxy.record_facts() IS 'Writes down what every object looks like now; install calls it at its end';
ALTER FUNCTION secretproxy.record_facts() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.record_facts() FROM PUBLIC;

-- Once: what differs later must go on to differ when this is deployed again.
SELECT secretproxy.record_facts() WHERE NOT EXISTS (SELECT FROM secretproxy.installed);

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('installed', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
