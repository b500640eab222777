-- Deploy secretproxy:jwt_public to pg
-- requires: schemas
-- requires: settings
-- Never an error and never a notice: policies and defaults call it for every row. Written so that the planner inlines it.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- The claim `sub` of request.jwt.claims, which PostgREST sets, where secretproxy.settings.jwt_source says so. NULL where the text is no JSON
-- object or sub is no uuid. Nothing is cast that is not known to be right: an error could only be caught in a subtransaction, and that
-- would keep every query that asks for the user from running in parallel. Strings, then innermost arrays and objects, are replaced by
-- tokens until one is left.
CREATE OR REPLACE FUNCTION secretproxy.jwt_subject() RETURNS pg_catalog.uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    v_claims pg_catalog.text := pg_catalog.current_setting('request.jwt.claims', true);
    v_back CONSTANT pg_catalog.text := pg_catalog.chr(92); -- no backslash in a string: standard_conforming_strings is the client's to set
    v_left pg_catalog.text;
    v_before pg_catalog.text;
    v_subject pg_catalog.text;
BEGIN
    IF v_claims IS NULL OR pg_catalog.octet_length(v_claims) OPERATOR(pg_catalog.>) 100000
       OR NOT EXISTS (SELECT FROM secretproxy.settings s WHERE s.jwt_source OPERATOR(pg_catalog.=) 'request.jwt.claims') THEN
        RETURN NULL;
    END IF;
    -- Characters by number: what of them this database can hold, and half ones, only a cast would tell.
    IF v_claims OPERATOR(pg_catalog.~) (v_back OPERATOR(pg_catalog.||) v_back OPERATOR(pg_catalog.||) 'u(?!00[2-7])') THEN
        RETURN NULL;
    END IF;
    v_left := pg_catalog.regexp_replace(
        v_claims,
        pg_catalog.replace('"([^"@[:cntrl:]]|@(["@/bfnrt]|u00[2-7][0-9a-fA-F]))*"', '@', v_back OPERATOR(pg_catalog.||) v_back), 'S', 'g');
    v_left := pg_catalog.regexp_replace(v_left, '-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]+)?|true|false|null', 'V', 'g');
    IF v_left OPERATOR(pg_catalog.~) '[^][{}:,SV[:space:]]|[SV][[:space:]]*[SV]' THEN
        RETURN NULL;
    END IF;
    v_left := pg_catalog.translate(v_left, pg_catalog.concat(' ', pg_catalog.chr(9), pg_catalog.chr(10), pg_catalog.chr(13)), '');
    FOR i IN 1..64 LOOP
        EXIT WHEN v_left OPERATOR(pg_catalog.~) '^[{](S:[SV](,S:[SV])*)?[}]$';
        v_before := v_left;
        v_left := pg_catalog.regexp_replace(v_left, '(?<=[:[,])([[]([SV](,[SV])*)?[]]|[{](S:[SV](,S:[SV])*)?[}])', 'V', 'g');
        IF v_left OPERATOR(pg_catalog.=) v_before THEN
            RETURN NULL;
        END IF;
    END LOOP;
    IF v_left OPERATOR(pg_catalog.!~) '^[{](S:[SV](,S:[SV])*)?[}]$' THEN
        RETURN NULL;
    END IF;
    v_subject := v_claims::pg_catalog.json OPERATOR(pg_catalog.->>) 'sub'::pg_catalog.text;
    IF v_subject OPERATOR(pg_catalog.~) '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$' THEN
        RETURN v_subject::pg_catalog.uuid;
    END IF;
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION secretproxy.jwt_subject() IS 'The claim sub of request.jwt.claims, where the settings say that it counts';
ALTER FUNCTION secretproxy.jwt_subject() OWNER TO secretproxy_owner;
-- Every role that may ask for the user may ask for this: it returns what the session itself has set.
GRANT EXECUTE ON FUNCTION secretproxy.jwt_subject() TO PUBLIC;

CREATE OR REPLACE FUNCTION jwt_public.current_user_id() RETURNS pg_catalog.uuid
LANGUAGE sql STABLE PARALLEL SAFE
AS $body$
    SELECT CASE
        WHEN pg_catalog.current_setting('jwt.claims.user_id', true) OPERATOR(pg_catalog.~)
             '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$|^[{]([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}[}]$'
        THEN pg_catalog.current_setting('jwt.claims.user_id', true)::pg_catalog.uuid
        WHEN pg_catalog.current_setting('request.jwt.claims', true) OPERATOR(pg_catalog.<>) ''
             AND pg_catalog.concat(pg_catalog.current_setting('jwt.claims.user_id', true)) OPERATOR(pg_catalog.=) ''
        THEN secretproxy.jwt_subject()
    END
$body$;
-- Nothing of the claim gets out by an error, so that policies that ask for the user may be asked last. Only a superuser may say so.
DO $do$
BEGIN
    IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user) THEN
        ALTER FUNCTION jwt_public.current_user_id() LEAKPROOF;
    END IF;
END
$do$;

-- The same for our functions alone: the schema jwt_public may belong to an application, and whoever owns a schema can put another function
-- in the place of ours there, which would then run as secretproxy_keys. Bound to what it uses, and inlined as well.
CREATE OR REPLACE FUNCTION secretproxy.jwt_user() RETURNS pg_catalog.uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN pg_catalog.current_setting('jwt.claims.user_id'::pg_catalog.text, true) OPERATOR(pg_catalog.~)
         '^([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$|^[{]([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}[}]$'::pg_catalog.text
    THEN pg_catalog.current_setting('jwt.claims.user_id'::pg_catalog.text, true)::pg_catalog.uuid
    WHEN pg_catalog.current_setting('request.jwt.claims'::pg_catalog.text, true) OPERATOR(pg_catalog.<>) ''::pg_catalog.text
         AND pg_catalog.concat(pg_catalog.current_setting('jwt.claims.user_id'::pg_catalog.text, true)) OPERATOR(pg_catalog.=) ''::pg_catalog.text
    THEN secretproxy.jwt_subject()
END;
ALTER FUNCTION secretproxy.jwt_user() OWNER TO secretproxy_keys;
REVOKE ALL ON FUNCTION secretproxy.jwt_user() FROM PUBLIC;

COMMENT ON FUNCTION jwt_public.current_user_id() IS 'The claim jwt.claims.user_id, or sub of request.jwt.claims (jwt_source of secretproxy.settings); NULL where it is unset or malformed';

ALTER FUNCTION jwt_public.current_user_id() OWNER TO secretproxy_owner;
GRANT EXECUTE ON FUNCTION jwt_public.current_user_id() TO anonymous, authenticated, secretproxy_owner;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('jwt_public', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
