-- Everything that a name could be resolved to, of somebody else's: each tells the server's log when it runs, which no rollback undoes.
-- Run as a superuser under search_path = pg_catalog, in a database where `mallory` may create schemas.
SET ROLE mallory;
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.ran(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE LOG 'HIJACKED % %', current_user, what; RETURN true; END $$;

CREATE PROCEDURE evil.make_function(place text, name text, arguments text, result text, what text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', place, name, arguments, result,
        format('BEGIN RAISE LOG %L, current_user, %L; RETURN%s; END', 'HIJACKED % %', what,
               CASE WHEN result ~ '^(SETOF|TABLE|void)' THEN '' ELSE ' NULL' END));
EXCEPTION WHEN others THEN
    NULL; -- a type that PL/pgSQL does not take
END $$;

-- The functions of pg_catalog as they are, for a path that has another schema first.
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT proname, pg_get_function_identity_arguments(oid) AS arguments, pg_get_function_result(oid) AS result
               FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' LOOP
        CALL evil.make_function('evil', r.proname, r.arguments, r.result, format('function %s(%s)', r.proname, r.arguments));
    END LOOP;
END $$;
CREATE FUNCTION evil.counted(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.ran('aggregate count(*)'); RETURN 1; END $$;
CREATE FUNCTION evil.kept(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.ran('aggregate of text'); RETURN $2; END $$;
CREATE FUNCTION evil.kept(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.ran('aggregate of int8'); RETURN $2; END $$;
CREATE AGGREGATE evil.count(*) (SFUNC = evil.counted, STYPE = bigint);
CREATE AGGREGATE evil.max(text) (SFUNC = evil.kept, STYPE = text);
CREATE AGGREGATE evil.max(bigint) (SFUNC = evil.kept, STYPE = bigint);
CREATE AGGREGATE evil.sum(bigint) (SFUNC = evil.kept, STYPE = bigint);

-- Its operators.
DO $$
DECLARE r record; v_name text;
BEGIN
    FOR r IN SELECT oid, oprname, oprleft::regtype::text AS l, oprright::regtype::text AS r, oprresult::regtype::text AS result, oprleft = 0 AS prefix
               FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprright <> 0 LOOP
        v_name := format('op_%s', r.oid);
        CALL evil.make_function('evil', v_name, CASE WHEN r.prefix THEN r.r ELSE r.l || ', ' || r.r END, r.result,
                                format('operator %s (%s, %s)', r.oprname, r.l, r.r));
        BEGIN
            EXECUTE format('CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.%I)', r.oprname,
                           CASE WHEN r.prefix THEN '' ELSE format('LEFTARG = %s,', r.l) END, r.r, v_name);
        EXCEPTION WHEN others THEN
            NULL;
        END;
    END LOOP;
END $$;

-- What fits better than anything in pg_catalog, for the path that everybody has.
DO $$
DECLARE
    v_types text[] := ARRAY['real', 'integer', 'bigint', 'smallint', 'oid', 'text', 'name', 'numeric', 'timestamptz', 'interval', 'uuid', 'bytea',
                            '"char"', 'boolean', 'inet', 'jsonb', 'text[]', 'name[]', 'oid[]', 'regclass', 'double precision', 'date'];
    v_left text; v_right text; v_sign text; v_result text;
BEGIN
    FOREACH v_left IN ARRAY v_types LOOP
        FOREACH v_right IN ARRAY v_types LOOP
            CONTINUE WHEN v_left = v_right AND v_left NOT IN ('boolean', '"char"', 'regclass');
            FOREACH v_result IN ARRAY ARRAY['boolean', 'text'] LOOP
                CALL evil.make_function('public', 'op_' || v_result || '_' || v_left, v_left || ', ' || v_right, v_result,
                                        format('public operator (%s, %s)', v_left, v_right));
                FOREACH v_sign IN ARRAY CASE v_result WHEN 'boolean' THEN ARRAY['=', '<>', '<', '<=', '>', '>=', '@>', '<@', '&&', '~']
                                                      ELSE ARRAY['||', '*', '+', '-', '/', '->>'] END LOOP
                    BEGIN
                        EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)', v_sign, v_left, v_right,
                                       'op_' || v_result || '_' || v_left);
                    EXCEPTION WHEN others THEN
                        NULL;
                    END;
                END LOOP;
            END LOOP;
        END LOOP;
    END LOOP;
END $$;
DO $$
DECLARE r record; v_other text;
BEGIN
    FOR r IN SELECT proname, proargtypes::oid[] AS types, pg_get_function_result(oid) AS result FROM pg_proc
              WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND provariadic = 0 AND pronargs BETWEEN 1 AND 5 AND NOT proretset LOOP
        SELECT string_agg(CASE t::regtype::text WHEN 'text' THEN 'name' WHEN 'bigint' THEN 'integer' WHEN 'double precision' THEN 'real'
                          WHEN 'numeric' THEN 'integer' WHEN 'oid' THEN 'regclass' WHEN 'name' THEN 'text' WHEN 'anyelement' THEN 'text'
                          WHEN 'timestamp with time zone' THEN 'date' ELSE t::regtype::text END, ', ' ORDER BY place)
          INTO v_other FROM unnest(r.types) WITH ORDINALITY AS u (t, place);
        CALL evil.make_function('public', r.proname, v_other, r.result, format('public function %s(%s)', r.proname, v_other));
    END LOOP;
END $$;
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.ran('public format'); RETURN ''; END $$;
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.ran('public format'); RETURN ''; END $$;

-- Types, by a domain whose check runs with each cast, and relations.
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typelem = 0 LOOP
        BEGIN
            EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil.ran(%L))', r.typname, r.typname, 'type ' || r.typname);
        EXCEPTION WHEN others THEN
            NULL;
        END;
    END LOOP;
    FOR r IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') LOOP
        BEGIN
            EXECUTE format('CREATE VIEW evil.%I AS SELECT * FROM pg_catalog.%I WHERE evil.ran(%L)', r.relname, r.relname, 'relation ' || r.relname);
        EXCEPTION WHEN others THEN
            NULL;
        END;
    END LOOP;
    FOREACH r.relname IN ARRAY ARRAY['access_log', 'checkpoints', 'changes', 'settings', 'installed', 'accepted', 'keyring', 'testimony_key',
                                     'secrets_table', 'secret_access'] LOOP
        EXECUTE format('CREATE VIEW evil.%I AS SELECT evil.ran(%L) AS id', r.relname, 'relation ' || r.relname);
    END LOOP;
END $$;
GRANT SELECT ON ALL TABLES IN SCHEMA evil TO PUBLIC;
RESET ROLE;
