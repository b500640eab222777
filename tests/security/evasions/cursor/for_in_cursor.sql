-- mechanism: cursors
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ DECLARE c CURSOR (n text) FOR SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', n) AS v; BEGIN FOR r IN c('alpha') LOOP NULL; END LOOP; END $$
