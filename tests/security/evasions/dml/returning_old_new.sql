-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 18

-- @setup
CREATE TABLE target (id int, v text)

GRANT ALL ON target TO app_user

-- @run
INSERT INTO target VALUES (1, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')) RETURNING old.id, new.id
