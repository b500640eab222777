-- mechanism: materialised views
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @setup
CREATE MATERIALIZED VIEW made AS SELECT 1 AS n, encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha') v;

CREATE UNIQUE INDEX ON made (n);
ALTER MATERIALIZED VIEW made OWNER TO app_user

-- @run
REFRESH MATERIALIZED VIEW CONCURRENTLY made
