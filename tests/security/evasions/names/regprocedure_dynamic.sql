-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ DECLARE f regproc := 'encrypted_secrets.secrets_getter'; BEGIN EXECUTE 'SELECT ' || f || '($1, $2)' USING '00000000-0000-4000-8000-00000000000a'::uuid, 'alpha'; END $$
