-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE TYPE from_type AS (v text)

CREATE TYPE to_type AS (v text)

CREATE FUNCTION turn(from_type) RETURNS to_type LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN ROW('x')::to_type; END $$

CREATE CAST (from_type AS to_type) WITH FUNCTION turn(from_type) AS ASSIGNMENT

CREATE TABLE casted (v to_type)

GRANT ALL ON casted TO app_user

-- @run
INSERT INTO casted VALUES (ROW('x')::from_type)
