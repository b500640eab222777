-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
DO $$ DECLARE r text; BEGIN EXECUTE 'SELECT encrypted_secrets.secrets_getter($1, $2)' INTO STRICT r USING '00000000-0000-4000-8000-00000000000a'::uuid, concat('al', 'pha'); END $$
