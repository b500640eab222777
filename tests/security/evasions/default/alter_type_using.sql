-- mechanism: defaults
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read
-- also: definition

-- @setup
CREATE TABLE own AS SELECT * FROM owners;
ALTER TABLE own OWNER TO app_user

-- @run
ALTER TABLE own ALTER COLUMN name TYPE text USING encrypted_secrets.secrets_getter(owner, name)
