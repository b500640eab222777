-- mechanism: window, aggregate, grammar corners
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @run
SELECT * FROM ROWS FROM (json_to_record(json_build_object('a', encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))) AS (a text), generate_series(1, 2)) WITH ORDINALITY
