-- mechanism: views
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read

-- @setup
CREATE VIEW inner_view AS SELECT id, encrypted_secrets.secrets_getter(owner, name) v FROM owners;
CREATE VIEW outer_view AS SELECT * FROM inner_view;
GRANT SELECT ON outer_view TO app_user

-- @run
SELECT v FROM outer_view ORDER BY 1
