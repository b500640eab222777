-- mechanism: views
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE TABLE kept (id int PRIMARY KEY, v text);
INSERT INTO kept VALUES (1, 'old');
GRANT ALL ON kept TO app_user;
CREATE VIEW shown AS SELECT * FROM kept WHERE encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') <> v WITH CHECK OPTION;
GRANT ALL ON shown TO app_user

-- @run
INSERT INTO shown VALUES (9, 'x')
