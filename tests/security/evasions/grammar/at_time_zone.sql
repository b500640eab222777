-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SELECT to_timestamp(length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))) AT TIME ZONE 'UTC'
