-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION quiet() RETURNS int LANGUAGE plpgsql SET standard_conforming_strings = off AS $$ BEGIN RETURN 1; END $$

-- @run
SELECT quiet()

SELECT '\', encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') --'
