-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- protocol: simple

-- @run
SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'beta')
