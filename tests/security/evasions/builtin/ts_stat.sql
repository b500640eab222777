-- mechanism: built-in functions that run a text
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SELECT * FROM ts_stat('SELECT to_tsvector(encrypted_secrets.secrets_getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''))')
