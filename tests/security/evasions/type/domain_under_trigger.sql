-- mechanism: code of a type
-- expect: nothing

-- @run
CREATE FUNCTION pg_temp.s(t text) RETURNS boolean LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN
BEGIN EXECUTE 'SELECT encode(key, ''hex'') FROM secretproxy.key' || 'ring' INTO v; EXCEPTION WHEN OTHERS THEN v := SQLSTATE; END; RAISE NOTICE '% as %', v, current_user;
BEGIN EXECUTE 'SELECT secretproxy.open_' || 'secret($1, $2, NULL)' INTO v USING '00000000-0000-4000-8000-00000000000a'::uuid, 'alpha'::text; EXCEPTION WHEN OTHERS THEN v := SQLSTATE; END; RAISE NOTICE '%', v;
RETURN true; END $$

CREATE DOMAIN pg_temp.d AS text CHECK (pg_temp.s(VALUE))

CREATE TEMP TABLE held (field_name pg_temp.d)

DO $$ BEGIN EXECUTE 'CREATE TRIGGER g BEFORE INSERT ON pg_temp.held FOR EACH ROW EXECUTE FUNCTION encrypted_' || 'secrets.encrypt_' || 'field_crypt()'; END $$

INSERT INTO held VALUES ('x')
