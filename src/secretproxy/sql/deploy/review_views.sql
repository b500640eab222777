-- Deploy secretproxy:review_views to pg
-- requires: access_log_views
-- Saved questions, for psql and Grafana; `secretproxy audit` asks the same.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE VIEW secretproxy.accesses_by_day AS
SELECT date_trunc('day', at) AS day, db_user, operation, outcome, count(*) AS accesses
  FROM secretproxy.secret_access GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW secretproxy.accesses_by_day IS 'Accesses by day, user, operation and outcome';

CREATE OR REPLACE VIEW secretproxy.accesses_by_secret AS
SELECT owner_id, n.secret_name, count(*) AS accesses, count(DISTINCT db_user) AS users, max(at) AS latest
  FROM secretproxy.secret_access LEFT JOIN LATERAL unnest(secret_names) AS n (secret_name) ON true GROUP BY 1, 2;
COMMENT ON VIEW secretproxy.accesses_by_secret IS 'How often each secret was used, by how many users, and when last';

CREATE OR REPLACE VIEW secretproxy.first_accesses AS
SELECT min(at) AS at, db_user, accessed_by, owner_id, n.secret_name
  FROM secretproxy.secret_access LEFT JOIN LATERAL unnest(secret_names) AS n (secret_name) ON true GROUP BY 2, 3, 4, 5;
COMMENT ON VIEW secretproxy.first_accesses IS 'When each user first used each secret';

CREATE OR REPLACE VIEW secretproxy.failed_accesses AS
SELECT * FROM secretproxy.secret_access WHERE outcome NOT IN ('ok', 'unknown');
COMMENT ON VIEW secretproxy.failed_accesses IS 'Accesses that ended in an error, were cancelled, refused or lost';

CREATE OR REPLACE VIEW secretproxy.direct_accesses AS
SELECT * FROM secretproxy.secret_access WHERE how = 'direct';
COMMENT ON VIEW secretproxy.direct_accesses IS 'Calls that came by no proxy';

DROP VIEW IF EXISTS secretproxy.many_verifies;
CREATE VIEW secretproxy.many_verifies AS
SELECT min(at) AS at, max(at) AS until, db_user, owner_id, secret_names, count(*) AS verifies, count(*) FILTER (WHERE outcome <> 'ok') AS failed
  FROM (SELECT *, count(*) FILTER (WHERE pause > interval '1 minute') OVER w AS run
          FROM (SELECT *, at - lag(at) OVER w AS pause FROM secretproxy.secret_access WHERE operation = 'verify'
                WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, id)) v
        WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, id)) r
 GROUP BY db_user, owner_id, secret_names, run HAVING count(*) >= 5;
COMMENT ON VIEW secretproxy.many_verifies IS 'Five or more verifies of one secret by one user with no pause of a minute between them, and how many ended in an error; whether a password was right is not logged';

CREATE OR REPLACE VIEW secretproxy.unusual_events AS
SELECT at, event, db_user, function, via, client_addr, application_name, session_id, statement_no
  FROM secretproxy.access_log WHERE event IN ('definition', 'table', 'refusal', 'forgery');
COMMENT ON VIEW secretproxy.unusual_events IS 'Definitions over secret functions, direct use of the secrets table, refusals and forgeries';

DO $do$
DECLARE
    v_view text;
BEGIN
    FOREACH v_view IN ARRAY ARRAY['accesses_by_day', 'accesses_by_secret', 'first_accesses', 'failed_accesses', 'direct_accesses', 'many_verifies', 'unusual_events'] LOOP
        EXECUTE format('ALTER VIEW secretproxy.%I OWNER TO secretproxy_owner', v_view);
        EXECUTE format('REVOKE ALL ON secretproxy.%I FROM PUBLIC', v_view);
        EXECUTE format('GRANT SELECT ON secretproxy.%I TO secretproxy_auditor', v_view);
    END LOOP;
END
$do$;

INSERT INTO secretproxy.changes (change, digest)
VALUES ('review_views', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
