-- mechanism: parsers that disagree
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read
-- needs: server 18

-- @run
CREATE TABLE made (id int, v int GENERATED ALWAYS AS (id + 1) VIRTUAL)

INSERT INTO made SELECT length(encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'))
