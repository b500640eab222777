-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))
