-- Deploy secretproxy:access_log_views to pg
-- requires: access_log
-- The log for people: one row a secret access, attempt, call and outcome joined.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE OR REPLACE VIEW secretproxy.secret_access AS
SELECT a.at,
       a.db_user,
       -- What an attempt was made as, its outcome tells; a call tells it itself.
       CASE WHEN a.event = 'attempt' THEN o.role ELSE a.role END AS role,
       CASE WHEN a.event = 'attempt' THEN o.accessed_by ELSE a.accessed_by END AS accessed_by,
       a.operation,
       a.function,
       a.owner_id,
       a.secret_names,
       CASE WHEN a.event = 'direct' THEN 'ok' ELSE coalesce(o.outcome, a.outcome, 'unknown') END AS outcome,
       coalesce(o.sqlstate, a.sqlstate) AS sqlstate,
       CASE WHEN a.event IN ('call', 'direct') THEN 1 ELSE o.calls END AS calls,
       a.client_addr,
       a.client_port,
       a.application_name,
       a.database,
       a.encoding,
       a.via,
       a.event AS how,
       o.duration,
       a.session_id,
       a.statement_no,
       a.protocol,
       a.fingerprint,
       a.id
  FROM secretproxy.access_log a
  LEFT JOIN LATERAL (
        SELECT * FROM secretproxy.access_log o
         WHERE o.session_id = a.session_id AND o.statement_no = a.statement_no AND o.event = 'outcome'
           -- One that names no function speaks for each attempt of its statement; where they did different things, each has its own.
           AND (o.function IS NULL OR a.event <> 'attempt'
                OR (o.function = a.function AND o.owner_id IS NOT DISTINCT FROM a.owner_id
                    AND o.secret_names IS NOT DISTINCT FROM a.secret_names))
         ORDER BY o.at DESC, o.seq DESC LIMIT 1
       ) o ON true
 WHERE a.event IN ('attempt', 'call', 'direct', 'refusal')
   -- An attempt whose owner or name the text did not show gives way to the calls that testimony showed.
   AND NOT (a.event = 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL) AND EXISTS (
        SELECT FROM secretproxy.access_log c
         WHERE c.session_id = a.session_id AND c.statement_no = a.statement_no AND c.event = 'call'
           AND split_part(c.function, '(', 1) = split_part(a.function, '(', 1)))
 ORDER BY a.at, a.seq;
COMMENT ON VIEW secretproxy.secret_access IS 'Who used which secret when, from where, and did it work: one row a secret access';
COMMENT ON COLUMN secretproxy.secret_access.how IS 'attempt: the statement named it; call: only the backend''s testimony showed it; direct: it came by no proxy; refusal: the log could not be written';

CREATE OR REPLACE VIEW secretproxy.secret_access_log AS
SELECT s.id, s.owner_id, n.secret_name, s.at AS accessed_at, s.accessed_by
  FROM secretproxy.secret_access s
  LEFT JOIN LATERAL unnest(s.secret_names) AS n (secret_name) ON true;
COMMENT ON VIEW secretproxy.secret_access_log IS 'The short form: one row for each secret that was accessed';

ALTER VIEW secretproxy.secret_access OWNER TO secretproxy_owner;
ALTER VIEW secretproxy.secret_access_log OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.secret_access, secretproxy.secret_access_log FROM PUBLIC;
GRANT SELECT ON secretproxy.secret_access, secretproxy.secret_access_log TO secretproxy_auditor;

-- In schema public only where somebody asks for it (`install --classic-view`): the original module's README has people make a table of that name
-- there.

INSERT INTO secretproxy.changes (change, digest)
VALUES ('access_log_views', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
