-- mechanism: FROM
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read

-- @run
SELECT o.id, s FROM owners o, LATERAL encrypted_secrets.secrets_getter(o.owner, o.name) s ORDER BY o.id
