-- mechanism: FROM
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read

-- @run
SELECT o.id, x.v FROM owners o CROSS JOIN LATERAL (SELECT encrypted_secrets.secrets_getter(o.owner, o.name) AS v) x ORDER BY o.id
