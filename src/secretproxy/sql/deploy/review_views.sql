-- Deploy secretproxy:review_views to pg
-- requires: access_log_views
-- Saved questions, for psql and Grafana; `secretproxy audit` asks the same.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE VIEW secretproxy.accesses_by_day AS
SELECT pg_catalog.date_trunc('day', at) AS day, db_user, operation, outcome, pg_catalog.count(*) AS accesses
  FROM secretproxy.secret_access GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW secretproxy.accesses_by_day IS 'Accesses by day, user, operation and outcome';

-- No outcome is looked at. Counted by login first: what is counted distinctly is sorted, and a month of rows takes long to sort.
CREATE OR REPLACE VIEW secretproxy.accesses_by_secret AS
SELECT g.owner_id, n.secret_name, pg_catalog.sum(g.accesses)::bigint AS accesses, pg_catalog.count(DISTINCT g.db_user) AS users, pg_catalog.max(g.latest) AS latest
  FROM (SELECT a.owner_id, a.secret_names, a.db_user, pg_catalog.count(*) AS accesses, pg_catalog.max(a.at) AS latest
          FROM secretproxy.access_log a
         WHERE a.event OPERATOR(pg_catalog.=) ANY (ARRAY['attempt', 'access', 'call', 'direct', 'refusal'])
           AND NOT EXISTS (
                SELECT FROM secretproxy.access_log c
                 WHERE a.event OPERATOR(pg_catalog.=) 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL)
                   AND c.session_id OPERATOR(pg_catalog.=) a.session_id AND c.statement_no OPERATOR(pg_catalog.=) a.statement_no AND c.event OPERATOR(pg_catalog.=) 'call'
                   AND pg_catalog.split_part(c.function, '(', 1) OPERATOR(pg_catalog.=) pg_catalog.split_part(a.function, '(', 1))
         GROUP BY 1, 2, 3) g
  LEFT JOIN LATERAL pg_catalog.unnest(g.secret_names) AS n (secret_name) ON true GROUP BY 1, 2;
COMMENT ON VIEW secretproxy.accesses_by_secret IS 'How often each secret was used, by how many users, and when last';

-- Of outcomes only the user of an attempt's is looked at.
CREATE OR REPLACE VIEW secretproxy.first_accesses AS
SELECT pg_catalog.min(g.at) AS at, g.db_user, g.accessed_by, g.owner_id, n.secret_name
  FROM (SELECT a.db_user, CASE WHEN a.event OPERATOR(pg_catalog.=) 'attempt' THEN o.accessed_by ELSE a.accessed_by END AS accessed_by,
               a.owner_id, a.secret_names, pg_catalog.min(a.at) AS at
          FROM secretproxy.access_log a
          LEFT JOIN secretproxy.access_log o
            ON a.event OPERATOR(pg_catalog.=) 'attempt' AND o.event OPERATOR(pg_catalog.=) 'outcome'
           AND o.session_id OPERATOR(pg_catalog.=) a.session_id AND o.statement_no OPERATOR(pg_catalog.=) a.statement_no
           AND (o.function IS NULL
                OR (o.function OPERATOR(pg_catalog.=) a.function
                    AND (o.owner_id OPERATOR(pg_catalog.=) a.owner_id OR (o.owner_id IS NULL AND a.owner_id IS NULL))
                    AND (o.secret_names OPERATOR(pg_catalog.=) a.secret_names OR (o.secret_names IS NULL AND a.secret_names IS NULL))))
         WHERE a.event OPERATOR(pg_catalog.=) ANY (ARRAY['attempt', 'access', 'call', 'direct', 'refusal'])
           AND NOT EXISTS (
                SELECT FROM secretproxy.access_log c
                 WHERE a.event OPERATOR(pg_catalog.=) 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL)
                   AND c.session_id OPERATOR(pg_catalog.=) a.session_id AND c.statement_no OPERATOR(pg_catalog.=) a.statement_no AND c.event OPERATOR(pg_catalog.=) 'call'
                   AND pg_catalog.split_part(c.function, '(', 1) OPERATOR(pg_catalog.=) pg_catalog.split_part(a.function, '(', 1))
         GROUP BY 1, 2, 3, 4) g
  LEFT JOIN LATERAL pg_catalog.unnest(g.secret_names) AS n (secret_name) ON true GROUP BY 2, 3, 4, 5;
COMMENT ON VIEW secretproxy.first_accesses IS 'When each user first used each secret';

CREATE OR REPLACE VIEW secretproxy.failed_accesses AS
-- Found by what the log has of endings that were not well, which has an index.
SELECT s.* FROM secretproxy.secret_access s
 WHERE s.outcome OPERATOR(pg_catalog.<>) ALL (ARRAY['ok', 'unknown'])
   AND (s.session_id, s.statement_no) OPERATOR(pg_catalog.=) ANY (SELECT e.session_id, e.statement_no FROM secretproxy.access_log e WHERE e.outcome OPERATOR(pg_catalog.<>) 'ok');
COMMENT ON VIEW secretproxy.failed_accesses IS 'Accesses that ended in an error, were cancelled, refused or lost';

CREATE OR REPLACE VIEW secretproxy.direct_accesses AS
SELECT * FROM secretproxy.secret_access WHERE how OPERATOR(pg_catalog.=) 'direct';
COMMENT ON VIEW secretproxy.direct_accesses IS 'Calls that came by no proxy';

DROP VIEW IF EXISTS secretproxy.many_verifies;
CREATE VIEW secretproxy.many_verifies AS
SELECT pg_catalog.min(at) AS at, pg_catalog.max(at) AS until, db_user, owner_id, secret_names, pg_catalog.count(*) AS verifies, pg_catalog.count(*) FILTER (WHERE outcome OPERATOR(pg_catalog.<>) 'ok') AS failed
  FROM (SELECT *, pg_catalog.count(*) FILTER (WHERE pause OPERATOR(pg_catalog.>) interval '1 minute') OVER w AS run
          FROM (SELECT *, at OPERATOR(pg_catalog.-) pg_catalog.lag(at) OVER w AS pause FROM secretproxy.secret_access WHERE operation OPERATOR(pg_catalog.=) 'verify'
                WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, id)) v
        WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, id)) r
 GROUP BY db_user, owner_id, secret_names, run HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) 5;
COMMENT ON VIEW secretproxy.many_verifies IS 'Five or more verifies of one secret by one user with no pause of a minute between them, and how many ended in an error; whether a password was right is not logged';

CREATE OR REPLACE VIEW secretproxy.unusual_events AS
SELECT at, event, db_user, function, via, client_addr, application_name, session_id, statement_no
  FROM secretproxy.access_log WHERE event OPERATOR(pg_catalog.=) ANY (ARRAY['definition', 'table', 'refusal', 'forgery']);
COMMENT ON VIEW secretproxy.unusual_events IS 'Definitions over secret functions, direct use of the secrets table, refusals and forgeries';

CREATE OR REPLACE VIEW secretproxy.reviews AS
SELECT at, db_user AS reviewer, function AS asked, via AS filter, client_addr, session_id, statement_no, id
  FROM secretproxy.access_log WHERE event OPERATOR(pg_catalog.=) 'review';
COMMENT ON VIEW secretproxy.reviews IS 'Who read the log itself: the page or command, and its filter, name and value in turn';

DO $do$
DECLARE
    v_view pg_catalog.text;
BEGIN
    FOREACH v_view IN ARRAY ARRAY['accesses_by_day', 'accesses_by_secret', 'first_accesses', 'failed_accesses', 'direct_accesses', 'many_verifies', 'unusual_events', 'reviews'] LOOP
        EXECUTE pg_catalog.format('ALTER VIEW secretproxy.%I OWNER TO secretproxy_owner', v_view);
        EXECUTE pg_catalog.format('REVOKE ALL ON secretproxy.%I FROM PUBLIC', v_view);
        EXECUTE pg_catalog.format('GRANT SELECT ON secretproxy.%I TO secretproxy_auditor', v_view);
    END LOOP;
END
$do$;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('review_views', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
