-- Deploy secretproxy:jwt_public to pg
-- requires: schemas
-- Never an error and never a notice: policies and defaults call it for every row. Written so that the planner inlines it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE FUNCTION jwt_public.current_user_id() RETURNS uuid
LANGUAGE sql STABLE LEAKPROOF PARALLEL SAFE
AS $body$
    SELECT CASE
        WHEN pg_catalog.current_setting('jwt.claims.user_id', true) OPERATOR(pg_catalog.~)
             '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$|^[{]([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}[}]$'
        THEN pg_catalog.current_setting('jwt.claims.user_id', true)::pg_catalog.uuid
    END
$body$;
-- The same for our functions alone: the schema jwt_public may belong to an application, and whoever owns a schema can put another function
-- in the place of ours there, which would then run as secretproxy_owner. Bound to what it uses, and inlined as well.
CREATE OR REPLACE FUNCTION secretproxy.jwt_user() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN pg_catalog.current_setting('jwt.claims.user_id'::text, true) OPERATOR(pg_catalog.~)
         '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$|^[{]([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}[}]$'::text
    THEN pg_catalog.current_setting('jwt.claims.user_id'::text, true)::pg_catalog.uuid
END;
ALTER FUNCTION secretproxy.jwt_user() OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.jwt_user() FROM PUBLIC;

COMMENT ON FUNCTION jwt_public.current_user_id() IS 'The claim jwt.claims.user_id; NULL where it is unset or malformed';

ALTER FUNCTION jwt_public.current_user_id() OWNER TO secretproxy_owner;
GRANT EXECUTE ON FUNCTION jwt_public.current_user_id() TO anonymous, authenticated, secretproxy_owner;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('jwt_public', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
