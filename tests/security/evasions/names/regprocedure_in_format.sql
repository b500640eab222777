-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ BEGIN EXECUTE format('SELECT %s($1, $2)', 'encrypted_secrets.secrets_getter(uuid,text,text)'::regprocedure::oid::regproc) USING '00000000-0000-4000-8000-00000000000a'::uuid, 'alpha'; END $$
