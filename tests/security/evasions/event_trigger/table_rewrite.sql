-- mechanism: event triggers
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE FUNCTION rewritten() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); END $$

CREATE EVENT TRIGGER evasion_rewrite ON table_rewrite EXECUTE FUNCTION rewritten()

CREATE TABLE target (n int)

ALTER TABLE target OWNER TO app_user

-- @run
ALTER TABLE target ALTER n TYPE bigint
