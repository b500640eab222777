-- Verify secretproxy:secrets_table on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- The catalog is asked, not the table: what is attached to it can run already when a statement over it is planned.
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 5)::int FROM pg_catalog.pg_attribute a
 WHERE a.attrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass AND NOT a.attisdropped AND a.attgenerated OPERATOR(pg_catalog.=) ''
   AND EXISTS (SELECT FROM (VALUES ('id', 'uuid'), ('secrets_owned_field', 'uuid'), ('name', 'text'), ('secrets_value_field', 'bytea'),
                                   ('secrets_enc_field', 'text')) w (name, type)
                WHERE a.attname OPERATOR(pg_catalog.=) w.name::pg_catalog.name
                  AND a.atttypid OPERATOR(pg_catalog.=) pg_catalog.concat('pg_catalog.', w.type)::pg_catalog.regtype::pg_catalog.oid);
-- Nobody but the owner reaches the table, save who could before it was adopted.
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 0)::int
  FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x
 WHERE c.oid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass AND x.grantee OPERATOR(pg_catalog.<>) c.relowner
   AND NOT EXISTS (SELECT FROM secretproxy.adopted a, pg_catalog.aclexplode(a.acl) y
                    WHERE a.kind OPERATOR(pg_catalog.=) 'table' AND a.object OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'
                      AND y.grantee OPERATOR(pg_catalog.=) x.grantee AND y.privilege_type OPERATOR(pg_catalog.=) x.privilege_type)
   AND NOT EXISTS (SELECT FROM secretproxy.kept_grants k
                    WHERE k.kind OPERATOR(pg_catalog.=) 'table' AND k.grantee OPERATOR(pg_catalog.=) pg_catalog.pg_get_userbyid(x.grantee) AND k.privilege OPERATOR(pg_catalog.=) x.privilege_type);
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.>=) 2)::int FROM pg_catalog.pg_trigger WHERE tgrelid OPERATOR(pg_catalog.=) 'secrets_schema.secrets_table'::pg_catalog.regclass AND tgfoid OPERATOR(pg_catalog.=) 'secrets_schema.tg_hash_secrets()'::pg_catalog.regprocedure AND tgenabled OPERATOR(pg_catalog.=) ANY (ARRAY['O', 'A']);
ROLLBACK;
