-- mechanism: domains and checks
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION hid(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

CREATE DOMAIN checked_text AS text CHECK (hid(VALUE) IS NOT NULL)

-- @run
SELECT * FROM json_to_record('{"a": "x"}') AS r (a checked_text)
