-- mechanism: long contexts
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ BEGIN EXECUTE 'select set_config(''x.y'', encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''), false) /*' || repeat(E'\nCSPX01 MSPX1 \u00e9\u20ac', 30000) || '*/'; END $$

SHOW x.y
