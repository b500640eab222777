-- mechanism: DML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 17

-- @setup
CREATE TABLE target (id int, v text)

INSERT INTO target VALUES (1, '')

GRANT ALL ON target TO app_user

-- @run
MERGE INTO target USING (SELECT 2 AS id) s ON target.id = s.id WHEN NOT MATCHED BY SOURCE THEN UPDATE SET v = encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')
