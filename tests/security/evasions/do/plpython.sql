-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: plpython3u

-- @setup
CREATE EXTENSION plpython3u;
CREATE FUNCTION py() RETURNS text LANGUAGE plpython3u AS $$ return plpy.execute("SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') v")[0]['v'] $$

-- @run
SELECT py()
