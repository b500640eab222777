-- mechanism: CTE
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE kept (v text);
GRANT ALL ON kept TO app_user

-- @run
WITH i AS (INSERT INTO kept VALUES ('x') RETURNING encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') v) SELECT v FROM i
