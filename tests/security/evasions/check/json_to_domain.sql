-- mechanism: domains and checks
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE FUNCTION asks(v text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NOT NULL; END $$;
CREATE DOMAIN guarded AS text CHECK (asks(VALUE))

-- @run
SELECT * FROM json_to_record('{"v": "x"}') AS r(v guarded)
