-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 18

-- @setup
CREATE TABLE target (id int, v text)

INSERT INTO target VALUES (1, 'x')

GRANT ALL ON target TO app_user

-- @run
UPDATE target SET v = 'y' RETURNING WITH (OLD AS before, NEW AS after) before.v, after.v, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')
