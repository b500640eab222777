-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SET standard_conforming_strings = off

SELECT 'a' -- it's
  '\' --', encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')
