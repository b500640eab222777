-- mechanism: PREPARE
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION runs() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'EXECUTE later'; END $$

-- @run
PREPARE later AS SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')

SELECT runs()
