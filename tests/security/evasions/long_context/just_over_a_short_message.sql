-- mechanism: long contexts
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=4

-- @run
DO $$ BEGIN FOR n IN 64000..65500 BY 500 LOOP EXECUTE 'select set_config(''x.y'', encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''), false) --' || repeat('x', n); END LOOP; END $$
