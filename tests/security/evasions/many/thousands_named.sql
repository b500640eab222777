-- mechanism: many calls
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=2000

-- @run
SELECT count(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')) FROM generate_series(1, 2000)
