-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: pltcl

-- @setup
CREATE EXTENSION pltcl;
GRANT USAGE ON LANGUAGE pltcl TO PUBLIC;
CREATE FUNCTION tcl() RETURNS text LANGUAGE pltcl AS $$ spi_exec "SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') AS v"; return $v $$

-- @run
SELECT tcl()
