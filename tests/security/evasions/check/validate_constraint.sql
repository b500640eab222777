-- mechanism: domains and checks
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION asks(v text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NOT NULL; END $$;
CREATE TABLE own (v text);
INSERT INTO own VALUES ('x');
ALTER TABLE own ADD CONSTRAINT c CHECK (asks(v)) NOT VALID;
ALTER TABLE own OWNER TO app_user

-- @run
ALTER TABLE own VALIDATE CONSTRAINT c
