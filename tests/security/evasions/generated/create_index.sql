-- mechanism: generated columns and indexes
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION sure(n text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', n); END $$;
CREATE TABLE own (n text);
INSERT INTO own VALUES ('alpha');
ALTER TABLE own OWNER TO app_user

-- @run
CREATE INDEX ON own (sure(n))
