-- Revert secretproxy:adoption from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- What belonged to an extension belongs to it again, where it still is there.
DO $do$
DECLARE
    a record;
BEGIN
    FOR a IN SELECT b.* FROM secretproxy.adopted b JOIN pg_extension e ON e.extname = b.extension
              WHERE CASE b.kind WHEN 'function' THEN to_regprocedure(b.object)::oid WHEN 'table' THEN to_regclass(b.object)::oid
                                ELSE to_regnamespace(b.object)::oid END IS NOT NULL LOOP
        EXECUTE format('ALTER EXTENSION %I ADD %s %s', a.extension, a.kind, a.object);
    END LOOP;
END
$do$;
DROP TABLE IF EXISTS secretproxy.kept_grants;
DROP TABLE secretproxy.adopted;
DELETE FROM secretproxy.changes WHERE change = 'adoption';
COMMIT;
