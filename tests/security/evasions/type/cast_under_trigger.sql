-- mechanism: code of a type
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
CREATE TYPE pg_temp.t AS (v text)

CREATE FUNCTION pg_temp.s(pg_temp.t) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN
BEGIN EXECUTE 'SELECT encode(key, ''hex'') FROM secretproxy.key' || 'ring' INTO v; EXCEPTION WHEN OTHERS THEN v := SQLSTATE; END; RAISE NOTICE '% as %', v, current_user;
EXECUTE 'SELECT encrypted_' || 'secrets.secrets_' || 'getter($1, $2)' INTO v USING '00000000-0000-4000-8000-00000000000a'::uuid, 'alpha'::text; RETURN v; END $$

CREATE CAST (pg_temp.t AS text) WITH FUNCTION pg_temp.s(pg_temp.t)

CREATE TEMP TABLE held (field_name bytea, encode_field pg_temp.t)

DO $$ BEGIN EXECUTE 'CREATE TRIGGER g BEFORE INSERT ON pg_temp.held FOR EACH ROW EXECUTE FUNCTION encrypted_' || 'secrets.encrypt_' || 'field_pgp()'; END $$

INSERT INTO held VALUES ('x', ROW('x'))
