-- Revert secretproxy:adoption from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- What belonged to an extension belongs to it again, where it still is there.
DO $do$
DECLARE
    a record;
BEGIN
    FOR a IN SELECT b.* FROM secretproxy.adopted b JOIN pg_catalog.pg_extension e ON e.extname OPERATOR(pg_catalog.=) b.extension
              WHERE CASE WHEN b.kind OPERATOR(pg_catalog.=) 'function' THEN pg_catalog.to_regprocedure(b.object)::pg_catalog.oid WHEN b.kind OPERATOR(pg_catalog.=) 'table' THEN pg_catalog.to_regclass(b.object)::pg_catalog.oid
                                ELSE pg_catalog.to_regnamespace(b.object)::pg_catalog.oid END IS NOT NULL LOOP
        EXECUTE pg_catalog.format('ALTER EXTENSION %I ADD %s %s', a.extension, a.kind, a.object);
    END LOOP;
END
$do$;
DROP TABLE IF EXISTS secretproxy.kept_grants;
DROP TABLE secretproxy.adopted;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'adoption';
COMMIT;
