-- Revert secretproxy:review_views from pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
DROP VIEW secretproxy.accesses_by_day, secretproxy.accesses_by_secret, secretproxy.first_accesses, secretproxy.failed_accesses, secretproxy.direct_accesses, secretproxy.many_verifies, secretproxy.unusual_events, secretproxy.reviews;
DELETE FROM secretproxy.changes WHERE change OPERATOR(pg_catalog.=) 'review_views';
COMMIT;
