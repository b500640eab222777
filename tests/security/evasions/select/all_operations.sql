-- mechanism: select list
-- expect: function=encrypted_secrets.secrets_upsert(uuid,text,text,text), owner=00000000-0000-4000-8000-00000000000a, names=new, operation=write
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=new, operation=read
-- expect: function=encrypted_secrets.secrets_verify(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=new, operation=verify
-- expect: function=encrypted_secrets.secrets_delete(uuid,text), owner=00000000-0000-4000-8000-00000000000a, names=new, operation=delete

-- @run
SELECT encrypted_secrets.secrets_upsert('00000000-0000-4000-8000-00000000000a', 'new', 'CANARYVALUE-new')

SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'new')

SELECT encrypted_secrets.secrets_verify('00000000-0000-4000-8000-00000000000a', 'new', 'CANARYVALUE-new')

SELECT encrypted_secrets.secrets_delete('00000000-0000-4000-8000-00000000000a', 'new')
