-- mechanism: look-alikes
-- expect: nothing

-- @run
SET standard_conforming_strings = off

SELECT '\', encrypted_secrets.secrets_getter(1, 2) --'
