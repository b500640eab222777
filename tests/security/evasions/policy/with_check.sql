-- mechanism: row security
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE kept (v text);
INSERT INTO kept VALUES ('x');
ALTER TABLE kept ENABLE ROW LEVEL SECURITY;
GRANT ALL ON kept TO app_user;
CREATE POLICY p ON kept FOR INSERT WITH CHECK (encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') IS NOT NULL)

-- @run
INSERT INTO kept VALUES ('y')
