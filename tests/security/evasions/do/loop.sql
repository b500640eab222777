-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=5

-- @run
DO $$ BEGIN FOR i IN 1..5 LOOP PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END LOOP; END $$
