-- mechanism: values that look like names
-- expect: function=encrypted_secrets.secrets_upsert(uuid,text,text,text), owner=00000000-0000-4000-8000-00000000000a, names=masked:*, operation=write

-- @run
SELECT encrypted_secrets.secrets_upsert('00000000-0000-4000-8000-00000000000a', 'ghp_CANARYVALUECANARYVALUE', 'name')
