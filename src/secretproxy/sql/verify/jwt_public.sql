-- Verify secretproxy:jwt_public on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL jwt.claims.user_id = 'malformed';
SELECT 1 OPERATOR(pg_catalog./) (jwt_public.current_user_id() IS NULL)::int;
ROLLBACK;
