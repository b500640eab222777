-- Deploy secretproxy:review_indexes to pg
-- requires: access_log
-- Indexes for the questions of a review: by owner, by secret, by user, each by time. Outcomes are found by their statement.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE INDEX IF NOT EXISTS access_log_owner_idx ON secretproxy.access_log (owner_id, at) WHERE owner_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS access_log_secret_idx ON secretproxy.access_log ((secret_names[1]), at) WHERE secret_names IS NOT NULL;
CREATE INDEX IF NOT EXISTS access_log_names_idx ON secretproxy.access_log USING gin (secret_names) WHERE pg_catalog.cardinality(secret_names) OPERATOR(pg_catalog.>) 1;
CREATE INDEX IF NOT EXISTS access_log_user_idx ON secretproxy.access_log (db_user, at) WHERE event OPERATOR(pg_catalog.<>) 'outcome';
-- Few rows, looked for across all time: direct calls, definitions, direct use of the table, refusals, forgeries.
-- In older versions it had no access to leave out, of which there are many.
DO $do$
BEGIN
    IF pg_catalog.strpos(pg_catalog.pg_get_indexdef(pg_catalog.to_regclass('secretproxy.access_log_rare_idx')), '''access''') OPERATOR(pg_catalog.=) 0 THEN
        DROP INDEX secretproxy.access_log_rare_idx;
    END IF;
END
$do$;
CREATE INDEX IF NOT EXISTS access_log_rare_idx ON secretproxy.access_log (event, at) WHERE event OPERATOR(pg_catalog.<>) ALL (ARRAY['attempt', 'access', 'call', 'outcome']);
-- Few rows again: what did not end well. Every other outcome costs one comparison.
CREATE INDEX IF NOT EXISTS access_log_failed_idx ON secretproxy.access_log (outcome, at) WHERE outcome OPERATOR(pg_catalog.<>) 'ok';

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('review_indexes', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
