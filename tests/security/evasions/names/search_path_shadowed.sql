-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION secrets_getter(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'shadow'::text $$

-- @run
SET search_path = work, encrypted_secrets, public

SELECT secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha', 'none')
