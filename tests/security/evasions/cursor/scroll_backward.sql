-- mechanism: cursors
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read, calls=+
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read, calls=+

-- @run
BEGIN

DECLARE c SCROLL CURSOR FOR SELECT encrypted_secrets.secrets_getter(owner, name) FROM owners ORDER BY id

FETCH LAST c

FETCH FIRST c

FETCH BACKWARD c

COMMIT
