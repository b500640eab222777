-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION step(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

CREATE AGGREGATE gathered(text) (SFUNC = step, STYPE = text)

-- @run
SELECT gathered(name) OVER (ORDER BY id) FROM owners WHERE id = 1
