-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- also: definition

-- @run
CREATE TABLE own (v text)

CREATE FUNCTION own_fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN NEW; END $$

CREATE TRIGGER t BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION own_fired()

INSERT INTO own VALUES ('x')
