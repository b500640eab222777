-- Verify secretproxy:jwt_public on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
-- The catalog is asked, and the function not called: the schema may belong to an application, who could put its own in the place of ours.
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 1)::int FROM pg_catalog.pg_proc p
 WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure('jwt_public.current_user_id()')::pg_catalog.oid
   AND p.proowner OPERATOR(pg_catalog.=) 'secretproxy_owner'::pg_catalog.regrole::pg_catalog.oid;
SET LOCAL jwt.claims.user_id = 'malformed';
SELECT 1 OPERATOR(pg_catalog./) (secretproxy.jwt_user() IS NULL)::int;
ROLLBACK;
