-- mechanism: select list
-- expect: function=encrypted_secrets.secrets_upsert(uuid,text,text,text), owner=00000000-0000-4000-8000-00000000000a, names=a, operation=write
-- expect: function=encrypted_secrets.secrets_upsert(uuid,text,text,text), owner=00000000-0000-4000-8000-00000000000a, names=b, operation=write
-- expect: function=encrypted_secrets.secrets_upsert(uuid,text,text,text), owner=00000000-0000-4000-8000-00000000000a, names=c, operation=write

-- @run
SELECT encrypted_secrets.secrets_upsert('00000000-0000-4000-8000-00000000000a', 'a', 'CANARYVALUE', 'pgp'), encrypted_secrets.secrets_upsert('00000000-0000-4000-8000-00000000000a', 'b', 'CANARYVALUE', 'crypt'), encrypted_secrets.secrets_upsert('00000000-0000-4000-8000-00000000000a', 'c', 'CANARYVALUE', 'none')
