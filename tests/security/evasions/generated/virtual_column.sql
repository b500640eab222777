-- mechanism: generated columns and indexes
-- expect: nothing
-- needs: server 18

-- @setup
CREATE TABLE virt (id int, v text GENERATED ALWAYS AS (lower(upper('x'))) VIRTUAL)

INSERT INTO virt VALUES (1)

GRANT ALL ON virt TO app_user

-- @run
SELECT v FROM virt
