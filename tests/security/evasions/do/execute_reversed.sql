-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ BEGIN EXECUTE reverse('))''ahpla'',''a00000000000-0008-0004-0000-00000000''(retteg_sterces.sterces_detpyrcne TCELES'||''); EXCEPTION WHEN syntax_error THEN EXECUTE 'SELECT ' || reverse(')''ahpla'',''a00000000000-0008-0004-0000-00000000''(retteg_sterces.sterces_detpyrcne'); END $$
