-- Verify secretproxy:installed on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- Nothing differs from what was written down, unless another major version of PostgreSQL tells definitions in other words.
SELECT 1 / (count(*) = 0 OR EXISTS (SELECT FROM secretproxy.installed
                                     WHERE kind = 'server' AND value <> (current_setting('server_version_num')::int / 10000)::text))::int
  FROM secretproxy.installed i FULL JOIN secretproxy.facts() f USING (kind, object, fact)
 WHERE i.value IS DISTINCT FROM f.value OR (i IS NULL) <> (f IS NULL);
ROLLBACK;
