-- mechanism: views
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE RECURSIVE VIEW shown (n, v) AS SELECT 1, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') UNION ALL SELECT n + 1, v FROM shown WHERE n < 2;
GRANT SELECT ON shown TO app_user

-- @run
SELECT * FROM shown
