CREATE TABLE items (id int PRIMARY KEY, owner uuid, name text)

INSERT INTO items VALUES (1, '00000000-0000-4000-8000-00000000000c', 'a'), (2, '00000000-0000-4000-8000-00000000000c', 'b')

CREATE FUNCTION wrapped(n text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000c', n, 'none'); END $$

CREATE FUNCTION outer_fn(n text) RETURNS text LANGUAGE sql AS $$ SELECT public.wrapped(n) $$

CREATE VIEW seen AS SELECT id, outer_fn(name) AS v FROM items

CREATE VIEW seen_twice AS SELECT * FROM seen

CREATE MATERIALIZED VIEW kept AS SELECT * FROM seen

CREATE FUNCTION over_view() RETURNS bigint LANGUAGE sql AS 'SELECT count(v) FROM seen_twice'

CREATE FUNCTION over_view_atomic() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(v) FROM seen_twice; END

CREATE FUNCTION dynamic() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN EXECUTE 'SELECT wrapped(''x'')' INTO r; RETURN r; END $$

CREATE FUNCTION with_default(v text DEFAULT wrapped('alpha')) RETURNS int LANGUAGE sql AS 'SELECT length($1)'

CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM wrapped('a'); RETURN coalesce(NEW, OLD); END $$

CREATE TABLE triggered (id int)

CREATE TRIGGER tells BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION tell()

CREATE VIEW over_triggered AS SELECT * FROM triggered

CREATE FUNCTION writes() RETURNS void LANGUAGE sql AS $$ INSERT INTO triggered VALUES (1) $$

CREATE FUNCTION count_triggered() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM triggered $$

CREATE TABLE parted (id int) PARTITION BY LIST (id)

CREATE TABLE part PARTITION OF parted FOR VALUES IN (1)

INSERT INTO parted VALUES (1)

CREATE TRIGGER tells AFTER UPDATE ON part FOR EACH ROW EXECUTE FUNCTION tell()

CREATE TABLE defaults (id int, v text DEFAULT wrapped('d'))

CREATE RULE also AS ON DELETE TO defaults DO ALSO SELECT wrapped('r')

CREATE FUNCTION steady(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN wrapped($1); END $$

CREATE TABLE generated (v text, g text GENERATED ALWAYS AS (steady(v)) STORED)

CREATE TABLE indexed (v text)

CREATE INDEX index_of_it ON indexed (steady(v))

CREATE TABLE checked (v text CHECK (wrapped(v) IS NOT NULL))

CREATE DOMAIN strict_text AS text CHECK (wrapped(VALUE) IS NOT NULL)

CREATE DOMAIN stricter_text AS strict_text

CREATE TABLE of_domain (v stricter_text)

CREATE TABLE policed (id int)

ALTER TABLE policed ENABLE ROW LEVEL SECURITY

CREATE POLICY p ON policed USING (wrapped('p') IS NOT NULL)

INSERT INTO policed VALUES (1)

INSERT INTO defaults VALUES (0, '')

CREATE TABLE unpoliced (id int)

CREATE POLICY p ON unpoliced USING (wrapped('p') IS NOT NULL)

CREATE FUNCTION reads(uuid, text) RETURNS text LANGUAGE sql AS 'SELECT encrypted_secrets.secrets_getter($1, $2)'

CREATE OPERATOR ==> (LEFTARG = uuid, RIGHTARG = text, FUNCTION = reads)

CREATE OPERATOR ==> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4mi)

CREATE VIEW by_operator AS SELECT owner ==> name AS v FROM items

CREATE FUNCTION step(text, text) RETURNS text LANGUAGE sql AS $$ SELECT wrapped($2) $$

CREATE AGGREGATE gather(text) (SFUNC = step, STYPE = text)

CREATE TYPE text_of_item AS (v text)

CREATE FUNCTION to_text(items) RETURNS text_of_item LANGUAGE sql AS 'SELECT ROW(wrapped($1.name))::text_of_item'

CREATE CAST (items AS text_of_item) WITH FUNCTION to_text(items)

CREATE FUNCTION revealed(items) RETURNS text LANGUAGE sql AS 'SELECT wrapped($1.name)'

CREATE PROCEDURE proceed() LANGUAGE plpgsql AS $$ BEGIN PERFORM wrapped('x'); END $$

CREATE TABLE parents (id int PRIMARY KEY)

INSERT INTO parents VALUES (3)

CREATE TABLE cascading (id int REFERENCES parents ON DELETE CASCADE)

INSERT INTO cascading VALUES (3)

CREATE TRIGGER tells AFTER DELETE ON cascading FOR EACH ROW EXECUTE FUNCTION tell()

CREATE FUNCTION "Größe und 'Preis'"(text) RETURNS text LANGUAGE sql AS $$ SELECT wrapped($1) $$

CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT wrapped('u') $$

CREATE FUNCTION harmless() RETURNS text LANGUAGE sql AS $$ SELECT 'wrapped(x), seen'::text $$

CREATE FUNCTION wrapped(text, text) RETURNS text LANGUAGE sql AS $$ SELECT $1 || $2 $$

CREATE SCHEMA other

CREATE FUNCTION other.wrapped(text) RETURNS text LANGUAGE sql AS $$ SELECT 'other' $$

CREATE TABLE other.seen (id int)

GRANT ALL ON SCHEMA public, other TO app_user

GRANT ALL ON ALL TABLES IN SCHEMA public, other TO app_user

ALTER MATERIALIZED VIEW kept OWNER TO app_user

ALTER TABLE policed FORCE ROW LEVEL SECURITY
