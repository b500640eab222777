-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SELECT l.x FROM (SELECT 1) d, LATERAL (SELECT encrypted_secrets.secrets_getter(owner, name) AS x FROM owners WHERE id = 1) AS l (x), LATERAL (SELECT ROW(l.x)) AS o (owner)
