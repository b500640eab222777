-- mechanism: rules
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- also: definition

-- @run
CREATE TABLE own (v text)

CREATE RULE r AS ON INSERT TO own DO INSTEAD SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')

INSERT INTO own VALUES ('x')
