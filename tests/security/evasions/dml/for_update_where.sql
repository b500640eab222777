-- mechanism: DML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE mine AS SELECT 1 AS id

GRANT ALL ON mine TO app_user

-- @run
SELECT id FROM mine WHERE encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NOT NULL FOR UPDATE SKIP LOCKED
