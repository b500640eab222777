-- mechanism: DML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 17

-- @setup
CREATE TABLE target (id int)

GRANT ALL ON target TO app_user

-- @run
MERGE INTO target USING (SELECT 1 AS id) s ON false WHEN NOT MATCHED THEN INSERT VALUES (1) RETURNING merge_action(), encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')
