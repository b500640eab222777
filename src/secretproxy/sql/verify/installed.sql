-- Verify secretproxy:installed on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- Nothing differs from what was written down, unless another major version of PostgreSQL tells definitions in other words.
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 OR EXISTS (SELECT FROM secretproxy.installed
                                     WHERE kind OPERATOR(pg_catalog.=) 'server' AND value OPERATOR(pg_catalog.<>) (pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog./) 10000)::pg_catalog.text))::int
  FROM secretproxy.installed i FULL JOIN secretproxy.facts() f ON i.kind OPERATOR(pg_catalog.=) f.kind AND i.object OPERATOR(pg_catalog.=) f.object AND i.fact OPERATOR(pg_catalog.=) f.fact
 WHERE (i.value OPERATOR(pg_catalog.=) f.value) IS NOT TRUE AND (i.value IS NOT NULL OR f.value IS NOT NULL) OR (i IS NULL) OPERATOR(pg_catalog.<>) (f IS NULL);
ROLLBACK;
