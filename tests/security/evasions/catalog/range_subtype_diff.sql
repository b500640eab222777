-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION atomic_two(n text) RETURNS text LANGUAGE sql RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', n)

-- @run
SELECT atomic_two('alpha')
