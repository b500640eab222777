-- mechanism: SQL/JSON and XML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @run
SELECT * FROM (VALUES (encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))) AS s (v), generate_series(1, length(s.v) - length(s.v) + 1)
