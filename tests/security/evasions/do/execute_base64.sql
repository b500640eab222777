-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ BEGIN EXECUTE convert_from(decode('U0VMRUNUIGVuY3J5cHRlZF9zZWNyZXRzLnNlY3JldHNfZ2V0dGVyKCcwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMGEnLCAnYWxwaGEnKQ==', 'base64'), 'UTF8'); END $$
