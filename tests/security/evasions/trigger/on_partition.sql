-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE parted (id int) PARTITION BY RANGE (id)

CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10)

CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN NEW; END $$

CREATE TRIGGER s BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION seen()

GRANT ALL ON parted, part TO app_user

-- @run
INSERT INTO parted VALUES (1)
