-- mechanism: defaults
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=3
-- also: definition

-- @setup
CREATE TABLE own AS SELECT id FROM owners;
ALTER TABLE own OWNER TO app_user

-- @run
ALTER TABLE own ADD COLUMN w text DEFAULT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')
