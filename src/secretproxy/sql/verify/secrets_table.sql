-- Verify secretproxy:secrets_table on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- The catalog is asked, not the table: what is attached to it can run already when a statement over it is planned.
SELECT 1 / (count(*) = 5)::int FROM pg_attribute a
 WHERE a.attrelid = 'secrets_schema.secrets_table'::regclass AND NOT a.attisdropped AND a.attgenerated = ''
   AND (a.attname, a.atttypid::regtype::text) IN (('id', 'uuid'), ('secrets_owned_field', 'uuid'), ('name', 'text'),
                                                  ('secrets_value_field', 'bytea'), ('secrets_enc_field', 'text'));
-- Nobody but the owner reaches the table, save who could before it was adopted.
SELECT 1 / (count(*) = 0)::int
  FROM pg_class c, aclexplode(c.relacl) x
 WHERE c.oid = 'secrets_schema.secrets_table'::regclass AND x.grantee <> c.relowner
   AND NOT EXISTS (SELECT FROM secretproxy.adopted a, aclexplode(a.acl) y
                    WHERE a.kind = 'table' AND a.object = 'secrets_schema.secrets_table'
                      AND y.grantee = x.grantee AND y.privilege_type = x.privilege_type)
   AND NOT EXISTS (SELECT FROM secretproxy.kept_grants k
                    WHERE k.kind = 'table' AND k.grantee = pg_get_userbyid(x.grantee) AND k.privilege = x.privilege_type);
SELECT 1 / (count(*) >= 2)::int FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass AND tgfoid = 'secrets_schema.tg_hash_secrets()'::regprocedure AND tgenabled IN ('O', 'A');
ROLLBACK;
