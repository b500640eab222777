-- Deploy secretproxy:installed to pg
-- requires: secrets_table
-- requires: encrypt_fields
-- requires: kept_grants
-- requires: key_rotation
-- requires: checkpoints
-- requires: review_indexes
-- requires: review_views
-- What every object of ours looks like, written down when it was installed, so that `secretproxy verify` can name what differs since.
-- The last change of the plan: it writes down what the others made.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- What older versions made and this one does not.
DROP TYPE IF EXISTS secretproxy.call_context CASCADE; -- with the internal functions that take it
DROP FUNCTION IF EXISTS secretproxy.column_text(secrets_schema.secrets_table, text);
DROP FUNCTION IF EXISTS secretproxy.current_ring(), secretproxy.own_start(int), secretproxy.testify(text, text, uuid, text[], text);

CREATE TABLE IF NOT EXISTS secretproxy.installed (
    kind text NOT NULL,
    object text NOT NULL,
    fact text NOT NULL,
    value text,
    PRIMARY KEY (kind, object, fact)
);
ALTER TABLE secretproxy.installed OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.installed FROM PUBLIC;
-- Code of others on the table of secrets that somebody has looked at: `secretproxy install --accept`.
CREATE TABLE IF NOT EXISTS secretproxy.accepted (
    object text PRIMARY KEY,
    accepted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    accepted_by name NOT NULL DEFAULT session_user
);
ALTER TABLE secretproxy.accepted OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.accepted FROM PUBLIC;
GRANT SELECT ON secretproxy.accepted TO secretproxy_auditor; -- for doctor
COMMENT ON TABLE secretproxy.accepted IS 'Code of others on secrets_schema.secrets_table that install was told to accept';
COMMENT ON TABLE secretproxy.installed IS 'What every object looked like when it was installed; secretproxy verify compares';

-- Partitions come and go and are left out. Grants on what people are meant to be granted (functions of the API, views, schemas, the log)
-- count only as far as they are PUBLIC's or a role's that install knows; on everything else every grant counts.
CREATE OR REPLACE FUNCTION secretproxy.facts(OUT kind text, OUT object text, OUT fact text, OUT value text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH ours (role) AS (
        SELECT r.oid FROM pg_roles r
         WHERE r.rolname IN ('secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables', 'secretproxy_writer',
                             'secretproxy_auditor', 'anonymous', 'authenticated', 'administrator')
    ), spaces AS (
        SELECT n.* FROM pg_namespace n WHERE n.nspname IN ('secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public')
    ), relations AS (
        SELECT c.* FROM pg_class c JOIN spaces n ON n.oid = c.relnamespace
         WHERE NOT c.relispartition AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
           AND (n.nspname IN ('secretproxy', 'encrypted_secrets') OR c.oid = to_regclass('secrets_schema.secrets_table'))
        UNION ALL
        SELECT c.* FROM pg_class c
         WHERE c.oid = to_regclass('public.secret_access_log') AND c.relowner = 'secretproxy_owner'::regrole
    ), functions AS (
        SELECT p.*, n.nspname FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace
         WHERE n.nspname IN ('secretproxy', 'encrypted_secrets')
            OR (n.nspname, p.proname) IN (('secrets_schema', 'tg_hash_secrets'), ('jwt_public', 'current_user_id'))
    ), grants AS (
        SELECT 'schema' AS kind, quote_ident(n.nspname) AS object, coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl, n.nspowner AS owner, true AS open
          FROM spaces n
        UNION ALL
        SELECT 'relation', c.oid::regclass::text, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner)),
               c.relowner, c.relkind = 'v' OR c.relname IN ('access_log', 'checkpoints')
          FROM relations c
        UNION ALL
        SELECT 'column', a.attrelid::regclass || '.' || quote_ident(a.attname), a.attacl, c.relowner, false
          FROM relations c JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attacl IS NOT NULL
        UNION ALL
        SELECT 'function', p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner, p.nspname <> 'secretproxy'
          FROM functions p
    )
    SELECT 'role', r.rolname::text, f.fact, f.value
      FROM pg_roles r,
           LATERAL (VALUES ('superuser', r.rolsuper::text), ('login', r.rolcanlogin::text), ('bypassrls', r.rolbypassrls::text),
                           ('createrole', r.rolcreaterole::text), ('replication', r.rolreplication::text),
                           ('memberships', (SELECT string_agg(m.roleid::regrole::text, ', ' ORDER BY m.roleid::regrole::text)
                                              FROM (SELECT DISTINCT a.roleid FROM pg_auth_members a WHERE a.member = r.oid) m))) f (fact, value)
     WHERE r.rolname IN ('secretproxy_owner', 'secretproxy_api', 'secretproxy_keys', 'secretproxy_tables', 'secretproxy_writer',
                         'secretproxy_auditor')
    UNION ALL
    SELECT 'schema', quote_ident(n.nspname), 'owner', pg_get_userbyid(n.nspowner) FROM spaces n
    UNION ALL
    SELECT 'relation', c.oid::regclass::text, f.fact, f.value
      FROM relations c,
           LATERAL (VALUES ('owner', pg_get_userbyid(c.relowner)::text), ('kind', c.relkind::text), ('persistence', c.relpersistence::text),
                           ('row security', c.relrowsecurity || ' ' || c.relforcerowsecurity), ('options', c.reloptions::text),
                           ('definition', CASE WHEN c.relkind IN ('v', 'm') THEN encode(sha256(convert_to(pg_get_viewdef(c.oid), 'UTF8')), 'hex') END)
                   ) f (fact, value)
    UNION ALL
    SELECT 'column', c.oid::regclass || '.' || quote_ident(a.attname), f.fact, f.value
      FROM relations c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum,
           LATERAL (VALUES ('type', format_type(a.atttypid, a.atttypmod)), ('not null', a.attnotnull::text), ('generated', a.attgenerated::text),
                           ('default', pg_get_expr(d.adbin, d.adrelid))) f (fact, value)
     WHERE c.relkind <> 'S'
    UNION ALL
    SELECT 'constraint', c.oid::regclass || '.' || quote_ident(k.conname), f.fact, f.value
      FROM relations c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('c', 'f', 'p', 'u', 'x'),
           LATERAL (VALUES ('definition', pg_get_constraintdef(k.oid)), ('validated', k.convalidated::text)) f (fact, value)
    UNION ALL
    SELECT 'foreign key', k.conrelid::regclass || '.' || quote_ident(k.conname), 'definition', pg_get_constraintdef(k.oid)
      FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = to_regclass('secrets_schema.secrets_table')
       AND k.conrelid <> ALL (ARRAY(SELECT c.oid FROM relations c))
    UNION ALL
    SELECT 'index', i.indexrelid::regclass::text, f.fact, f.value
      FROM relations c JOIN pg_index i ON i.indrelid = c.oid,
           LATERAL (VALUES ('definition', pg_get_indexdef(i.indexrelid)), ('valid', i.indisvalid::text)) f (fact, value)
    UNION ALL
    SELECT 'trigger', c.oid::regclass || '.' || quote_ident(t.tgname), f.fact, f.value
      FROM relations c JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal,
           LATERAL (VALUES ('definition', pg_get_triggerdef(t.oid)), ('enabled', t.tgenabled::text)) f (fact, value)
    UNION ALL
    SELECT 'rule', c.oid::regclass || '.' || quote_ident(r.rulename), 'definition', pg_get_ruledef(r.oid)
      FROM relations c JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT 'policy', c.oid::regclass || '.' || quote_ident(p.polname), 'definition',
           concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::text, pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))
      FROM relations c JOIN pg_policy p ON p.polrelid = c.oid
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, f.fact, f.value
      FROM functions p,
           LATERAL (VALUES ('owner', pg_get_userbyid(p.proowner)::text), ('security definer', p.prosecdef::text), ('volatility', p.provolatile::text),
                           ('settings', p.proconfig::text), ('parallel', p.proparallel::text), ('leakproof', p.proleakproof::text),
                           ('strict', p.proisstrict::text), ('result', pg_get_function_result(p.oid)), ('arguments', pg_get_function_arguments(p.oid)),
                           ('language', (SELECT l.lanname::text FROM pg_language l WHERE l.oid = p.prolang)),
                           ('body', encode(sha256(convert_to(p.prosrc || coalesce(pg_get_function_sqlbody(p.oid), ''), 'UTF8')), 'hex'))) f (fact, value)
    UNION ALL
    SELECT g.kind, g.object, 'grant ' || lower(x.privilege_type) || ' to ' || coalesce(quote_ident(pg_get_userbyid(nullif(x.grantee, 0))), 'PUBLIC'),
           x.is_grantable::text
      FROM grants g, LATERAL (SELECT e.grantee, e.privilege_type, bool_or(e.is_grantable) AS is_grantable
                                FROM aclexplode(g.acl) e GROUP BY 1, 2) x
     WHERE x.grantee <> g.owner AND (NOT g.open OR x.grantee = 0 OR x.grantee IN (SELECT role FROM ours))
    UNION ALL
    SELECT 'server', 'PostgreSQL', 'major version', (current_setting('server_version_num')::int / 10000)::text
$body$;
COMMENT ON FUNCTION secretproxy.facts() IS 'What every object looks like now';
ALTER FUNCTION secretproxy.facts() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.facts() FROM PUBLIC;

CREATE OR REPLACE FUNCTION secretproxy.record_facts() RETURNS void
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

INSERT INTO secretproxy.changes (change, digest)
VALUES ('installed', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
