-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SELECT sum(1) OVER (ORDER BY g ROWS BETWEEN CURRENT ROW AND length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')) FOLLOWING) FROM generate_series(1, 1) g
