-- mechanism: cursors
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION opened() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE mine refcursor := 'mine'; BEGIN OPEN mine FOR SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN mine; END $$

-- @run
BEGIN

SELECT opened()

FETCH ALL mine

COMMIT
