-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: plperl

-- @setup
CREATE EXTENSION plperl

-- @run
DO LANGUAGE plperl $$ spi_exec_query(q{SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')}); $$
