-- mechanism: built-in functions that run a text
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE VIEW shown AS SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') v

GRANT ALL ON shown TO app_user

-- @run
BEGIN

DECLARE c CURSOR FOR SELECT v FROM shown

SELECT cursor_to_xml('c', 10, true, false, '')

COMMIT
