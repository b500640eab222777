-- Deploy secretproxy:stored_secrets to pg
-- requires: secrets_table
-- Functions that read and write the table of secrets, as its owner, and do nothing else: they take and give sealed bytes. Whatever an application has
-- attached to the table (CHECK, DEFAULT, generated column, index expression, rule, policy, trigger, foreign key) runs within these, as
-- secretproxy_tables, which may have nothing opened, sealed or testified to. Such code can alter what that role owns, these functions
-- included, but not their bodies (that takes CREATE on the schema): so each makes sure that it still runs as that role, for one that was
-- made SECURITY INVOKER would run the table's code as the role of the API. Every type that goes in or out is PostgreSQL's own.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- An older version had it in key_rotation, under another owner.
DROP FUNCTION IF EXISTS secretproxy.stored_formats();

-- Only the API calls it, under its own pinned search_path; every SET more would be paid for with each read.
CREATE OR REPLACE FUNCTION secretproxy.stored_secret(owner pg_catalog.uuid, name pg_catalog.text) RETURNS pg_catalog.bytea
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
AS $body$
#variable_conflict use_variable
DECLARE
    v_stored pg_catalog.bytea;
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    SELECT CASE WHEN t.secrets_value_field IS NULL THEN pg_catalog.decode('00', 'hex') ELSE
               CASE WHEN t.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' THEN pg_catalog.decode('70', 'hex')
                    WHEN t.secrets_enc_field OPERATOR(pg_catalog.=) 'crypt' THEN pg_catalog.decode('63', 'hex')
                    ELSE pg_catalog.decode('6e', 'hex') END OPERATOR(pg_catalog.||) t.secrets_value_field END
      INTO v_stored
      FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) stored_secret.owner AND t.name OPERATOR(pg_catalog.=) stored_secret.name;
    RETURN v_stored;
END
$body$;
COMMENT ON FUNCTION secretproxy.stored_secret(pg_catalog.uuid, pg_catalog.text) IS 'A letter for the kind (p, c, n; 0 where the value is NULL) and the stored bytes; NULL where there is no such secret';
ALTER FUNCTION secretproxy.stored_secret(pg_catalog.uuid, pg_catalog.text) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.stored_secret(pg_catalog.uuid, pg_catalog.text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.stored_secret(pg_catalog.uuid, pg_catalog.text) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.store_secret(owner pg_catalog.uuid, secret_name pg_catalog.text, sealed pg_catalog.bytea, field_encoding pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    INSERT INTO secrets_schema.secrets_table AS t (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
    VALUES (store_secret.owner, secret_name, sealed, field_encoding)
    ON CONFLICT (secrets_owned_field, name) DO UPDATE
        -- Not EXCLUDED: the insert's trigger has been at that one.
        SET secrets_value_field = sealed, secrets_enc_field = EXCLUDED.secrets_enc_field;
END
$body$;
COMMENT ON FUNCTION secretproxy.store_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) IS 'Stores what was sealed';
ALTER FUNCTION secretproxy.store_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.store_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.store_secret(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.delete_secrets(owner pg_catalog.uuid, names pg_catalog.text[]) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    DELETE FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) delete_secrets.owner AND t.name OPERATOR(pg_catalog.=) ANY (delete_secrets.names);
END
$body$;
COMMENT ON FUNCTION secretproxy.delete_secrets(pg_catalog.uuid, pg_catalog.text[]) IS 'Deletes secrets of an owner';
ALTER FUNCTION secretproxy.delete_secrets(pg_catalog.uuid, pg_catalog.text[]) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.delete_secrets(pg_catalog.uuid, pg_catalog.text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.delete_secrets(pg_catalog.uuid, pg_catalog.text[]) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.replace_password(owner pg_catalog.uuid, name pg_catalog.text, old pg_catalog.bytea, new pg_catalog.bytea) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
DECLARE
    v_id pg_catalog.uuid;
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    UPDATE secrets_schema.secrets_table t SET secrets_value_field = new
     WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) replace_password.owner AND t.name OPERATOR(pg_catalog.=) replace_password.name
       AND t.secrets_enc_field OPERATOR(pg_catalog.=) 'crypt' AND t.secrets_value_field OPERATOR(pg_catalog.=) old
    RETURNING t.id INTO v_id;
    IF FOUND THEN
        INSERT INTO secretproxy.replaced_password (id, value) VALUES (v_id, old) ON CONFLICT DO NOTHING;
    END IF;
END
$body$;
COMMENT ON FUNCTION secretproxy.replace_password(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.bytea) IS 'Stores a password''s hash of format 2 and keeps the one of format 1 for a revert';
ALTER FUNCTION secretproxy.replace_password(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.bytea) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.replace_password(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.replace_password(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.bytea) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.first_secret(owner pg_catalog.uuid, OUT id pg_catalog.uuid, OUT name pg_catalog.text, OUT stored pg_catalog.bytea, OUT encoding pg_catalog.text) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN QUERY SELECT t.id, t.name, t.secrets_value_field, t.secrets_enc_field FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) first_secret.owner LIMIT 1;
END
$body$;
COMMENT ON FUNCTION secretproxy.first_secret(pg_catalog.uuid) IS 'One row of an owner, as it is stored';
ALTER FUNCTION secretproxy.first_secret(pg_catalog.uuid) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.first_secret(pg_catalog.uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.first_secret(pg_catalog.uuid) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.secrets_of(owner pg_catalog.uuid, OUT id pg_catalog.uuid, OUT name pg_catalog.text, OUT stored pg_catalog.bytea, OUT encoding pg_catalog.text) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN QUERY SELECT t.id, t.name, t.secrets_value_field, t.secrets_enc_field FROM secrets_schema.secrets_table t
     WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) secrets_of.owner FOR UPDATE;
END
$body$;
COMMENT ON FUNCTION secretproxy.secrets_of(pg_catalog.uuid) IS 'The rows of an owner, as they are stored, locked';
ALTER FUNCTION secretproxy.secrets_of(pg_catalog.uuid) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.secrets_of(pg_catalog.uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.secrets_of(pg_catalog.uuid) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.names_of(owner pg_catalog.uuid) RETURNS pg_catalog.text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN (SELECT pg_catalog.array_agg(t.name ORDER BY t.name) FROM secrets_schema.secrets_table t WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) names_of.owner);
END
$body$;
COMMENT ON FUNCTION secretproxy.names_of(pg_catalog.uuid) IS 'The names of an owner''s secrets; NULL where there are none';
ALTER FUNCTION secretproxy.names_of(pg_catalog.uuid) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.names_of(pg_catalog.uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.names_of(pg_catalog.uuid) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.name_of(owner pg_catalog.uuid, stored pg_catalog.bytea) RETURNS pg_catalog.text
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN (SELECT t.name FROM secrets_schema.secrets_table t
             WHERE t.secrets_owned_field OPERATOR(pg_catalog.=) name_of.owner AND t.secrets_value_field OPERATOR(pg_catalog.=) name_of.stored LIMIT 1);
END
$body$;
COMMENT ON FUNCTION secretproxy.name_of(pg_catalog.uuid, pg_catalog.bytea) IS 'The name under which an owner has these stored bytes';
ALTER FUNCTION secretproxy.name_of(pg_catalog.uuid, pg_catalog.bytea) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.name_of(pg_catalog.uuid, pg_catalog.bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.name_of(pg_catalog.uuid, pg_catalog.bytea) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.add_row(secret pg_catalog.uuid, owner pg_catalog.uuid, name pg_catalog.text, value pg_catalog.bytea, encoding pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    INSERT INTO secrets_schema.secrets_table (id, secrets_owned_field, name, secrets_value_field, secrets_enc_field)
    VALUES (coalesce(secret, pg_catalog.gen_random_uuid()), add_row.owner, add_row.name, add_row.value, add_row.encoding);
END
$body$;
COMMENT ON FUNCTION secretproxy.add_row(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) IS 'Adds a row';
ALTER FUNCTION secretproxy.add_row(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.add_row(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.add_row(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.set_row(secret pg_catalog.uuid, name pg_catalog.text, sealed pg_catalog.bytea, encoding pg_catalog.text) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    UPDATE secrets_schema.secrets_table t
       SET name = set_row.name, secrets_value_field = sealed, secrets_enc_field = set_row.encoding
     WHERE t.id OPERATOR(pg_catalog.=) secret;
END
$body$;
COMMENT ON FUNCTION secretproxy.set_row(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) IS 'Sets a row';
ALTER FUNCTION secretproxy.set_row(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.set_row(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.set_row(pg_catalog.uuid, pg_catalog.text, pg_catalog.bytea, pg_catalog.text) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.ids_to_seal(after pg_catalog.uuid, batch int, prefix pg_catalog.bytea) RETURNS pg_catalog.uuid[]
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN (SELECT pg_catalog.array_agg(p.id ORDER BY p.id)
              FROM (SELECT t.id FROM secrets_schema.secrets_table t
                     WHERE t.id OPERATOR(pg_catalog.>) after AND t.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' AND pg_catalog.substr(t.secrets_value_field, 1, 8) OPERATOR(pg_catalog.<>) prefix
                     ORDER BY t.id LIMIT batch) p);
END
$body$;
COMMENT ON FUNCTION secretproxy.ids_to_seal(pg_catalog.uuid, int, pg_catalog.bytea) IS 'The next rows that the newest key did not seal';
ALTER FUNCTION secretproxy.ids_to_seal(pg_catalog.uuid, int, pg_catalog.bytea) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.ids_to_seal(pg_catalog.uuid, int, pg_catalog.bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.ids_to_seal(pg_catalog.uuid, int, pg_catalog.bytea) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.rows_to_seal(ids pg_catalog.uuid[], prefix pg_catalog.bytea, wait boolean, OUT id pg_catalog.uuid, OUT owner pg_catalog.uuid, OUT name pg_catalog.text, OUT stored pg_catalog.bytea) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    -- Locked rows are read again as they are now: what a writer changed or deleted meanwhile is not put back.
    IF wait THEN
        PERFORM FROM secrets_schema.secrets_table t WHERE t.id OPERATOR(pg_catalog.=) ANY (ids) ORDER BY t.id FOR UPDATE;
    ELSE
        ids := ARRAY(SELECT t.id FROM secrets_schema.secrets_table t WHERE t.id OPERATOR(pg_catalog.=) ANY (ids) ORDER BY t.id FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN QUERY SELECT t.id, t.secrets_owned_field, t.name, t.secrets_value_field
      FROM secrets_schema.secrets_table t
     WHERE t.id OPERATOR(pg_catalog.=) ANY (ids) AND t.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' AND pg_catalog.substr(t.secrets_value_field, 1, 8) OPERATOR(pg_catalog.<>) prefix;
END
$body$;
COMMENT ON FUNCTION secretproxy.rows_to_seal(pg_catalog.uuid[], pg_catalog.bytea, boolean) IS 'Rows that the newest key did not seal, locked; one that another transaction holds is left out unless `wait`';
ALTER FUNCTION secretproxy.rows_to_seal(pg_catalog.uuid[], pg_catalog.bytea, boolean) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.rows_to_seal(pg_catalog.uuid[], pg_catalog.bytea, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.rows_to_seal(pg_catalog.uuid[], pg_catalog.bytea, boolean) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.count_to_seal(prefix pg_catalog.bytea) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN (SELECT pg_catalog.count(*) FROM secrets_schema.secrets_table t
             WHERE t.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' AND pg_catalog.substr(t.secrets_value_field, 1, 8) OPERATOR(pg_catalog.<>) prefix);
END
$body$;
COMMENT ON FUNCTION secretproxy.count_to_seal(pg_catalog.bytea) IS 'How many values the newest key did not seal';
ALTER FUNCTION secretproxy.count_to_seal(pg_catalog.bytea) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.count_to_seal(pg_catalog.bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.count_to_seal(pg_catalog.bytea) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.set_value(secret pg_catalog.uuid, sealed pg_catalog.bytea) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    UPDATE secrets_schema.secrets_table t SET secrets_value_field = sealed WHERE t.id OPERATOR(pg_catalog.=) secret;
END
$body$;
COMMENT ON FUNCTION secretproxy.set_value(pg_catalog.uuid, pg_catalog.bytea) IS 'Stores the same value sealed another way';
ALTER FUNCTION secretproxy.set_value(pg_catalog.uuid, pg_catalog.bytea) OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.set_value(pg_catalog.uuid, pg_catalog.bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.set_value(pg_catalog.uuid, pg_catalog.bytea) TO secretproxy_api;

CREATE OR REPLACE FUNCTION secretproxy.sealed_rows(OUT id pg_catalog.uuid, OUT owner pg_catalog.uuid, OUT name pg_catalog.text, OUT stored pg_catalog.bytea) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN QUERY SELECT t.id, t.secrets_owned_field, t.name, t.secrets_value_field
      FROM secrets_schema.secrets_table t
     WHERE t.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' AND pg_catalog.substr(t.secrets_value_field, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex');
END
$body$;
COMMENT ON FUNCTION secretproxy.sealed_rows() IS 'Values of format 2, for a revert';
ALTER FUNCTION secretproxy.sealed_rows() OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.sealed_rows() FROM PUBLIC;

CREATE OR REPLACE FUNCTION secretproxy.restore_passwords() RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    UPDATE secrets_schema.secrets_table t SET secrets_value_field = p.value
      FROM secretproxy.replaced_password p WHERE p.id OPERATOR(pg_catalog.=) t.id AND t.secrets_enc_field OPERATOR(pg_catalog.=) 'crypt';
    UPDATE secrets_schema.secrets_table t SET secrets_value_field = pg_catalog.substr(t.secrets_value_field, 9)
     WHERE t.secrets_enc_field OPERATOR(pg_catalog.=) 'crypt' AND pg_catalog.substr(t.secrets_value_field, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex');
END
$body$;
COMMENT ON FUNCTION secretproxy.restore_passwords() IS 'Passwords as the original module reads them, for a revert';
ALTER FUNCTION secretproxy.restore_passwords() OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.restore_passwords() FROM PUBLIC;

CREATE OR REPLACE FUNCTION secretproxy.has_rows() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN EXISTS (SELECT FROM secrets_schema.secrets_table t);
END
$body$;
COMMENT ON FUNCTION secretproxy.has_rows() IS 'Whether there is a secret, for a revert';
ALTER FUNCTION secretproxy.has_rows() OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.has_rows() FROM PUBLIC;

CREATE OR REPLACE FUNCTION secretproxy.stored_formats(OUT encoding pg_catalog.text, OUT format int, OUT key_version int, OUT stored bigint) RETURNS SETOF pg_catalog.record
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_variable
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'::pg_catalog.name THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'this function runs as secretproxy_tables or not at all', HINT = 'Run secretproxy install --again.';
    END IF;
    RETURN QUERY
    SELECT s.encoding, s.format, s.key_version, pg_catalog.count(*) FROM (
        SELECT t.secrets_enc_field AS encoding,
               CASE WHEN t.secrets_enc_field OPERATOR(pg_catalog.<>) ALL (ARRAY['pgp', 'crypt']) THEN 0
                    WHEN pg_catalog.substr(t.secrets_value_field, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex') THEN 2 ELSE 1 END AS format,
               CASE WHEN t.secrets_enc_field OPERATOR(pg_catalog.=) 'pgp' AND pg_catalog.substr(t.secrets_value_field, 1, 4) OPERATOR(pg_catalog.=) pg_catalog.decode('ff535032', 'hex')
                    THEN (pg_catalog.concat('x', pg_catalog.encode(pg_catalog.substr(t.secrets_value_field, 5, 4), 'hex')))::pg_catalog.bit(32)::pg_catalog.int4 END AS key_version
          FROM secrets_schema.secrets_table t) s
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
END
$body$;
COMMENT ON FUNCTION secretproxy.stored_formats() IS 'How many values are stored in which encoding, format and key version';
ALTER FUNCTION secretproxy.stored_formats() OWNER TO secretproxy_tables;
REVOKE ALL ON FUNCTION secretproxy.stored_formats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.stored_formats() TO secretproxy_auditor, secretproxy_keys;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('stored_secrets', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
