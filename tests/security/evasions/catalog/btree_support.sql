-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE FUNCTION compare(text, text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN bttextcmp($1, $2); END $$

CREATE OPERATOR CLASS secret_ops FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 compare(text, text)

CREATE TABLE sorted (v text)

CREATE INDEX ON sorted (v secret_ops)

INSERT INTO sorted VALUES ('b')

GRANT ALL ON sorted TO app_user

-- @run
INSERT INTO sorted VALUES ('a')
