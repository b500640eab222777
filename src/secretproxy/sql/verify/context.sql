-- Verify secretproxy:context on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- The row is what the settings and the newest keys say.
SELECT 1 / (count(*) = 1)::int
  FROM secretproxy.context c,
       (SELECT * FROM secretproxy.testimony_key WHERE retired_at IS NULL AND active ORDER BY version DESC LIMIT 1) t,
       (SELECT * FROM secretproxy.keyring WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1) r,
       secretproxy.settings s
 WHERE (c.testimony_version, c.testimony_inner, c.testimony_outer) = (t.version, t.inner_pad, t.outer_pad)
   AND (c.ring_version, c.ring_inner, c.ring_outer, c.ring_prefix) = (r.version, r.inner_pad, r.outer_pad, r.prefix)
   AND (c.direct_calls, c.owner_check, c.crypt_cost, c.max_name, c.name_pattern, c.backend_types, c.write_format)
       = (s.direct_calls, s.owner_check, s.crypt_cost, s.max_name, s.name_pattern, s.backend_types, s.write_format)
   AND c.testimony_head = 'SPX1 ' || t.version
   AND (c.charset = 'SQL_ASCII') = (getdatabaseencoding() = 'SQL_ASCII');
SELECT 1 / (count(*) = 3)::int FROM pg_trigger WHERE tgfoid = 'secretproxy.refresh_context()'::regprocedure AND tgenabled = 'O';
ROLLBACK;
