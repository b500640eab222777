-- mechanism: DML
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE target (id int GENERATED ALWAYS AS IDENTITY, v text)

GRANT ALL ON target TO app_user

-- @run
INSERT INTO target OVERRIDING SYSTEM VALUE VALUES (1, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))
