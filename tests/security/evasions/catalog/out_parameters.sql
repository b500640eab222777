-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=2

-- @setup
CREATE FUNCTION pair(OUT a text, OUT b text) LANGUAGE plpgsql AS $$ BEGIN a := encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

-- @run
SELECT (pair()).*
