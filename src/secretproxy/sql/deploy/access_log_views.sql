-- Deploy secretproxy:access_log_views to pg
-- requires: access_log
-- The log for people: one row a secret access. Attempt, call and outcome are joined; an event `access` is all three in one row.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

-- Outcomes are joined, not looked up row by row, so that a count over a month can hash them. One that names no function speaks for each
-- attempt of its statement; where they did different things, each has its own. All say alike how the statement ended, which is all that a
-- call needs of them: it has its own role and user. An access has its own outcome too; a row of an outcome of its statement says that the client did not
-- get the answer. No order is given: whoever wants one says so, and a count does not sort first.
CREATE OR REPLACE VIEW secretproxy.secret_access AS
SELECT a.at,
       a.db_user,
       CASE WHEN a.event OPERATOR(pg_catalog.=) 'attempt' THEN o.role ELSE a.role END AS role,
       CASE WHEN a.event OPERATOR(pg_catalog.=) 'attempt' THEN o.accessed_by ELSE a.accessed_by END AS accessed_by,
       a.operation,
       a.function,
       a.owner_id,
       a.secret_names,
       CASE WHEN a.event OPERATOR(pg_catalog.=) 'direct' THEN 'ok' ELSE coalesce(o.outcome, n.outcome, a.outcome, 'unknown') END AS outcome,
       coalesce(o.sqlstate, n.sqlstate, a.sqlstate) AS sqlstate,
       CASE WHEN a.event OPERATOR(pg_catalog.=) ANY (ARRAY['call', 'direct']) THEN 1 WHEN a.event OPERATOR(pg_catalog.=) 'access' THEN a.calls ELSE o.calls END AS calls,
       a.client_addr,
       a.client_port,
       a.application_name,
       a.database,
       a.encoding,
       a.via,
       a.event AS how,
       coalesce(o.duration, n.duration, a.duration) AS duration,
       a.session_id,
       a.statement_no,
       a.protocol,
       a.fingerprint,
       a.id
  FROM secretproxy.access_log a
  LEFT JOIN secretproxy.access_log o
    ON o.session_id OPERATOR(pg_catalog.=) a.session_id AND o.statement_no OPERATOR(pg_catalog.=) a.statement_no AND o.event OPERATOR(pg_catalog.=) 'outcome'
   AND (o.function IS NULL
        OR (a.event OPERATOR(pg_catalog.=) 'attempt' AND o.function OPERATOR(pg_catalog.=) a.function
            AND (o.owner_id OPERATOR(pg_catalog.=) a.owner_id OR (o.owner_id IS NULL AND a.owner_id IS NULL))
            AND (o.secret_names OPERATOR(pg_catalog.=) a.secret_names OR (o.secret_names IS NULL AND a.secret_names IS NULL))))
  LEFT JOIN (
        -- The first of the outcomes of a statement that name what they are of: a join that several processes can share, which one for each row
        -- (LATERAL) is not.
        SELECT w.session_id, w.statement_no, w.outcome, w.sqlstate, w.duration
          FROM secretproxy.access_log w
         WHERE w.event OPERATOR(pg_catalog.=) 'outcome' AND w.function IS NOT NULL
           AND NOT EXISTS (
                SELECT FROM secretproxy.access_log v
                 WHERE v.session_id OPERATOR(pg_catalog.=) w.session_id AND v.statement_no OPERATOR(pg_catalog.=) w.statement_no
                   AND v.event OPERATOR(pg_catalog.=) 'outcome' AND v.function IS NOT NULL
                   AND ROW(v.at, v.id) OPERATOR(pg_catalog.<) ROW(w.at, w.id))
       ) n ON o.id IS NULL AND a.event OPERATOR(pg_catalog.=) ANY (ARRAY['call', 'refusal'])
          AND n.session_id OPERATOR(pg_catalog.=) a.session_id AND n.statement_no OPERATOR(pg_catalog.=) a.statement_no
 WHERE a.event OPERATOR(pg_catalog.=) ANY (ARRAY['attempt', 'access', 'call', 'direct', 'refusal'])
   -- An attempt whose owner or name the text did not show gives way to the calls that testimony showed.
   AND NOT EXISTS (
        SELECT FROM secretproxy.access_log c
         WHERE a.event OPERATOR(pg_catalog.=) 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL)
           AND c.session_id OPERATOR(pg_catalog.=) a.session_id AND c.statement_no OPERATOR(pg_catalog.=) a.statement_no AND c.event OPERATOR(pg_catalog.=) 'call'
           AND pg_catalog.split_part(c.function, '(', 1) OPERATOR(pg_catalog.=) pg_catalog.split_part(a.function, '(', 1));
COMMENT ON VIEW secretproxy.secret_access IS 'Who used which secret when, from where, and did it work: one row a secret access';
COMMENT ON COLUMN secretproxy.secret_access.how IS 'attempt: the statement named it; access: the same of a statement that only reads, whose answer waited for this row; call: only the backend''s testimony showed it; direct: it came by no proxy; refusal: the log could not be written';

-- `accessed_by` is the user of the claim, or else the login. It was a uuid in older versions, NULL without a claim.
DO $do$
BEGIN
    IF (SELECT t.typname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
         WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secretproxy.secret_access_log') AND a.attname OPERATOR(pg_catalog.=) 'accessed_by') OPERATOR(pg_catalog.=) 'uuid'
    THEN
        IF pg_catalog.pg_get_userbyid((SELECT relowner FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('public.secret_access_log') AND relkind OPERATOR(pg_catalog.=) 'v')) OPERATOR(pg_catalog.=) 'secretproxy_owner' THEN
            PERFORM pg_catalog.set_config('secretproxy.classic_view', 'again', true);
            DROP VIEW public.secret_access_log;
        END IF;
        DROP VIEW secretproxy.secret_access_log;
    END IF;
END
$do$;
CREATE OR REPLACE VIEW secretproxy.secret_access_log AS
SELECT s.id, s.owner_id, n.secret_name, s.at AS accessed_at, coalesce(s.accessed_by::pg_catalog.text, s.db_user) AS accessed_by
  FROM secretproxy.secret_access s
  LEFT JOIN LATERAL pg_catalog.unnest(s.secret_names) AS n (secret_name) ON true;
COMMENT ON VIEW secretproxy.secret_access_log IS 'The short form: one row for each secret that was accessed; accessed_by is the user of the claim, or else the login';

ALTER VIEW secretproxy.secret_access OWNER TO secretproxy_owner;
ALTER VIEW secretproxy.secret_access_log OWNER TO secretproxy_owner;
REVOKE ALL ON secretproxy.secret_access, secretproxy.secret_access_log FROM PUBLIC;
GRANT SELECT ON secretproxy.secret_access, secretproxy.secret_access_log TO secretproxy_auditor;

DO $do$
BEGIN
    IF pg_catalog.current_setting('secretproxy.classic_view', true) OPERATOR(pg_catalog.=) 'again' THEN
        CREATE VIEW public.secret_access_log AS
            SELECT id, owner_id, secret_name, accessed_at, accessed_by FROM secretproxy.secret_access_log;
        ALTER VIEW public.secret_access_log OWNER TO secretproxy_owner;
        REVOKE ALL ON public.secret_access_log FROM PUBLIC;
        GRANT SELECT ON public.secret_access_log TO secretproxy_auditor;
    END IF;
END
$do$;
-- In schema public only where somebody asks for it (`install --classic-view`): the original module's README has people make a table of that name
-- there.

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('access_log_views', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
