-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE SCHEMA other

GRANT USAGE ON SCHEMA other TO PUBLIC

CREATE FUNCTION other.renamed(uuid, text) RETURNS text LANGUAGE sql AS 'SELECT encrypted_secrets.secrets_getter($1, $2)'

-- @run
SELECT other.renamed('00000000-0000-4000-8000-00000000000a', 'alpha')
