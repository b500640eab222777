-- mechanism: DML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 15

-- @setup
CREATE TABLE kept (id int PRIMARY KEY, v text);
INSERT INTO kept VALUES (1, 'old');
GRANT ALL ON kept TO app_user

-- @run
MERGE INTO kept k USING (VALUES (1)) n(id) ON k.id = n.id WHEN MATCHED AND encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NULL THEN DELETE WHEN MATCHED THEN DO NOTHING
