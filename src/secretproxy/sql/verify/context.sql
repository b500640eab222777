-- Verify secretproxy:context on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- The row is what the settings and the newest keys say.
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 1)::int
  FROM secretproxy.context c,
       (SELECT * FROM secretproxy.testimony_key WHERE retired_at IS NULL AND active ORDER BY version DESC LIMIT 1) t,
       (SELECT * FROM secretproxy.keyring WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1) r,
       secretproxy.settings s
 WHERE (c.testimony_version, c.testimony_inner, c.testimony_outer) OPERATOR(pg_catalog.=) (t.version, t.inner_pad, t.outer_pad)
   AND (c.ring_version, c.ring_inner, c.ring_outer, c.ring_prefix) OPERATOR(pg_catalog.=) (r.version, r.inner_pad, r.outer_pad, r.prefix)
   AND (c.direct_calls, c.owner_check, c.crypt_cost, c.max_name, c.name_pattern, c.backend_types, c.write_format)
       OPERATOR(pg_catalog.=) (s.direct_calls, s.owner_check, s.crypt_cost, s.max_name, s.name_pattern, s.backend_types, s.write_format)
   AND (c.testimony_key, c.ring_key) OPERATOR(pg_catalog.=) (t.key, r.key)
   AND CASE WHEN s.owner_check OPERATOR(pg_catalog.=) 'off' THEN c.usual_mark OPERATOR(pg_catalog.=) c.ring_mark ELSE c.usual_mark IS NULL END
   AND c.testimony_head OPERATOR(pg_catalog.=) ('SPX1 ' OPERATOR(pg_catalog.||) t.version)
   AND (c.charset OPERATOR(pg_catalog.=) 'SQL_ASCII') OPERATOR(pg_catalog.=) (pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) 'SQL_ASCII');
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 3)::int FROM pg_catalog.pg_trigger WHERE tgfoid OPERATOR(pg_catalog.=) 'secretproxy.refresh_context()'::pg_catalog.regprocedure AND tgenabled OPERATOR(pg_catalog.=) 'O';
ROLLBACK;
