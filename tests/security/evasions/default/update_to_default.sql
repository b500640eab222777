-- mechanism: defaults
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE kept (v text DEFAULT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'));
INSERT INTO kept VALUES ('x');
GRANT ALL ON kept TO app_user

-- @run
UPDATE kept SET v = DEFAULT
