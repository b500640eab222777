-- mechanism: DO
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE texts (body text);
INSERT INTO texts VALUES ($$SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')$$);
GRANT SELECT ON texts TO app_user

-- @run
DO $$ DECLARE q text; BEGIN SELECT body INTO q FROM texts; EXECUTE q; END $$
