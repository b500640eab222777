-- Verify secretproxy:review_views on pg

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT FROM secretproxy.accesses_by_day WHERE false;
SELECT FROM secretproxy.accesses_by_secret WHERE false;
SELECT FROM secretproxy.first_accesses WHERE false;
SELECT FROM secretproxy.failed_accesses WHERE false;
SELECT FROM secretproxy.direct_accesses WHERE false;
SELECT FROM secretproxy.many_verifies WHERE false;
SELECT FROM secretproxy.unusual_events WHERE false;
SELECT FROM secretproxy.reviews WHERE false;
ROLLBACK;
