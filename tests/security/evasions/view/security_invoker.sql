-- mechanism: views
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 15

-- @setup
CREATE VIEW peeked WITH (security_invoker = true) AS SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') AS v

GRANT SELECT ON peeked TO app_user

-- @run
SELECT * FROM peeked
