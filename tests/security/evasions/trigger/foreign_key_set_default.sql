-- mechanism: triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TABLE parent (id text PRIMARY KEY)

CREATE TABLE child (id text DEFAULT left(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'), 0) REFERENCES parent ON DELETE SET DEFAULT)

INSERT INTO parent VALUES ('a'), (''); INSERT INTO child VALUES ('a'); GRANT ALL ON parent, child TO app_user; ALTER TABLE child OWNER TO app_user

-- @run
DELETE FROM parent WHERE id = 'a'
