-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION gather_step(text, text) RETURNS text LANGUAGE sql AS $$ SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', $2) $$

CREATE AGGREGATE gather(text) (SFUNC = gather_step, STYPE = text)

-- @run
SELECT gather(name) FROM owners WHERE id = 1
