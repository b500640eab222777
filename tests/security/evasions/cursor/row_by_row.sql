-- mechanism: cursors
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read

-- @run
BEGIN

DECLARE c CURSOR FOR SELECT encrypted_secrets.secrets_getter(owner, name) FROM owners ORDER BY id

FETCH 1 c

FETCH 1 c

ROLLBACK
