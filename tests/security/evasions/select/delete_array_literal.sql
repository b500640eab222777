-- mechanism: select list
-- expect: function=encrypted_secrets.secrets_delete(uuid,text[]), owner=00000000-0000-4000-8000-00000000000a, names=alpha|beta, operation=delete

-- @run
SELECT encrypted_secrets.secrets_delete('00000000-0000-4000-8000-00000000000a', '{alpha,"beta"}'::text[])
