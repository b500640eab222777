-- Revert secretproxy:jwt_public from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL check_function_bodies = off; -- a body is what it was, under the search_path of whoever calls it
DO $do$
DECLARE
    v_function pg_catalog.text;
    a record;
    g record;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['jwt_public.current_user_id()'] LOOP
        SELECT * INTO a FROM secretproxy.adopted WHERE kind OPERATOR(pg_catalog.=) 'function' AND object OPERATOR(pg_catalog.=) v_function;
        IF FOUND THEN
            EXECUTE a.definition;
            EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, authenticated, anonymous', v_function);
            EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', v_function, a.owner);
            IF a.acl IS NULL THEN
                EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', v_function);
            ELSE
                FOR g IN SELECT CASE WHEN grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END AS who, is_grantable
                           FROM pg_catalog.aclexplode(a.acl) WHERE privilege_type OPERATOR(pg_catalog.=) 'EXECUTE' LOOP
                    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', v_function, g.who)
                        OPERATOR(pg_catalog.||) CASE WHEN g.is_grantable AND g.who OPERATOR(pg_catalog.<>) 'PUBLIC' THEN ' WITH GRANT OPTION' ELSE '' END;
                END LOOP;
            END IF;
        ELSE
            EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS %s', v_function);
        END IF;
    END LOOP;
END
$do$;

DROP FUNCTION IF EXISTS secretproxy.jwt_user(), secretproxy.jwt_subject();
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'jwt_public';
COMMIT;
