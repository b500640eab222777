-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ BEGIN EXECUTE format('SELECT %I.%I(%L, %L)', 'encrypted' || '_secrets', reverse('retteg_sterces'), '00000000-0000-4000-8000-00000000000a', 'alpha'); END $$
