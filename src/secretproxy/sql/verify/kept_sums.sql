-- Verify secretproxy:kept_sums on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT month, upto, known, form, leans, counted, times, rewritten, ended, accesses, open, compact, added, checked FROM secretproxy.sums WHERE false;
SELECT month, db_user, role, accessed_by, n, latest FROM secretproxy.sums_users WHERE false;
SELECT month, quarter, operation, outcome, n FROM secretproxy.sums_hours WHERE false;
SELECT month, owner_id, secret_names, db_user, n, earliest, latest, verifies FROM secretproxy.sums_secrets WHERE false;
SELECT month, id, at FROM secretproxy.sums_open WHERE false;
SELECT 'secretproxy.keep_sums(bigint, bigint)'::pg_catalog.regprocedure, 'secretproxy.drop_sums(timestamptz)'::pg_catalog.regprocedure,
       'secretproxy.add_to_sums(timestamptz, timestamptz, timestamptz, timestamptz, uuid[], timestamptz[])'::pg_catalog.regprocedure;
ROLLBACK;
