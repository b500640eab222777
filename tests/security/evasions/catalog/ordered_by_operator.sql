-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION hid(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NULL; END $$

CREATE OPERATOR <&> (LEFTARG = text, RIGHTARG = text, FUNCTION = hid)

-- @run
SELECT 'a'::text <&> 'b'
