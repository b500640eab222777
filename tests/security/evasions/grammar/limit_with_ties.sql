-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=2

-- @run
SELECT id FROM owners ORDER BY id FETCH FIRST (length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')) - length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')) + 1) ROWS WITH TIES
