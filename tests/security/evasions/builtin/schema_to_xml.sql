-- mechanism: built-in functions that run a text
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE SCHEMA exported

CREATE VIEW exported.shown AS SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') v

GRANT USAGE ON SCHEMA exported TO app_user; GRANT ALL ON exported.shown TO app_user

-- @run
SELECT schema_to_xml('exported', true, false, '')
