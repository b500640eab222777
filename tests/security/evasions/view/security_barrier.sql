-- mechanism: views
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read

-- @setup
CREATE VIEW shown WITH (security_barrier) AS SELECT id, encrypted_secrets.secrets_getter(owner, name) v FROM owners;
GRANT SELECT ON shown TO app_user

-- @run
SELECT v FROM shown WHERE id > 0 ORDER BY id
