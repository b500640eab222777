-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION atomic_one() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END

-- @run
SELECT atomic_one()
