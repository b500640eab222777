-- mechanism: long contexts
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION work.deeper(n int, padding text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v text;
BEGIN
    IF n = 0 THEN
        EXECUTE 'SELECT encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha'')' INTO v;
    ELSE
        EXECUTE 'SELECT work.deeper($1, $2) --' || padding INTO v USING n - 1, padding;
    END IF;
    RETURN v;
END $$

-- @run
SELECT work.deeper(20, repeat('y', 500000))
