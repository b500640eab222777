-- mechanism: operators, casts, aggregates
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=+

-- @setup
CREATE FUNCTION valid(text[], oid) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha'); RETURN true; END $$

CREATE FOREIGN DATA WRAPPER checked_wrapper VALIDATOR valid

GRANT USAGE ON FOREIGN DATA WRAPPER checked_wrapper TO app_user

-- @run
CREATE SERVER made FOREIGN DATA WRAPPER checked_wrapper OPTIONS (a 'b')
