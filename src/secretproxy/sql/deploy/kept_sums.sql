-- Deploy secretproxy:kept_sums to pg
-- requires: review_indexes
-- Sums of the log, so that counting a month of millions of rows takes no reading of them. They are a copy of what the log says and are
-- used only while the log's rows still fit them; `audit verify` counts them again.
--
-- A sum is of the accesses of one UTC month before `upto`, as rows of the log before `known` tell them. Counted is an access of which these
-- rows say how it ended; the others stand in sums_open. So a later outcome adds to a sum and never changes what is in it. Where one would
-- (an access gets a second outcome), the month is counted again.

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

CREATE TABLE IF NOT EXISTS secretproxy.sums (
    month pg_catalog.timestamptz NOT NULL PRIMARY KEY,
    upto pg_catalog.timestamptz NOT NULL,
    known pg_catalog.timestamptz NOT NULL,
    form int NOT NULL,
    leans boolean NOT NULL DEFAULT false,
    counted bigint NOT NULL DEFAULT 0,
    times bigint NOT NULL DEFAULT 0,
    rewritten bigint NOT NULL,
    ended bigint NOT NULL DEFAULT 0,
    accesses bigint NOT NULL DEFAULT 0,
    open bigint NOT NULL DEFAULT 0,
    compact bigint NOT NULL DEFAULT 0,
    added bigint NOT NULL DEFAULT 0,
    checked pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE TABLE IF NOT EXISTS secretproxy.sums_users (
    month pg_catalog.timestamptz NOT NULL, db_user pg_catalog.text, role pg_catalog.text, accessed_by pg_catalog.uuid,
    n bigint NOT NULL, latest pg_catalog.timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS secretproxy.sums_hours (
    month pg_catalog.timestamptz NOT NULL, quarter bigint NOT NULL, operation pg_catalog.text, outcome pg_catalog.text NOT NULL, n bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS secretproxy.sums_secrets (
    month pg_catalog.timestamptz NOT NULL, owner_id pg_catalog.uuid, secret_names pg_catalog.text[], db_user pg_catalog.text,
    n bigint NOT NULL, earliest pg_catalog.timestamptz NOT NULL, latest pg_catalog.timestamptz NOT NULL,
    verifies bigint
);
CREATE TABLE IF NOT EXISTS secretproxy.sums_open (
    month pg_catalog.timestamptz NOT NULL, id pg_catalog.uuid NOT NULL, at pg_catalog.timestamptz NOT NULL
);
ALTER TABLE secretproxy.sums OWNER TO secretproxy_owner;
ALTER TABLE secretproxy.sums_users OWNER TO secretproxy_owner;
ALTER TABLE secretproxy.sums_hours OWNER TO secretproxy_owner;
ALTER TABLE secretproxy.sums_secrets OWNER TO secretproxy_owner;
ALTER TABLE secretproxy.sums_open OWNER TO secretproxy_owner;
COMMENT ON TABLE secretproxy.sums IS 'What each sum of a month is of: accesses before upto, as rows before known tell them; counted and times are the number of these rows and a sum of their times, by which a sum is known to fit them';
COMMENT ON COLUMN secretproxy.sums.leans IS 'Whether an access of the first day has an outcome or a call of the day before, whose rows then count too';
COMMENT ON COLUMN secretproxy.sums.rewritten IS 'Rows of the log that the server has ever updated, which nobody should';
COMMENT ON TABLE secretproxy.sums_users IS 'Accesses that have ended, by month and user';
COMMENT ON TABLE secretproxy.sums_hours IS 'Accesses that have ended, by quarter of an hour since 1970, operation and outcome';
COMMENT ON TABLE secretproxy.sums_secrets IS 'Accesses that have ended, by month, secret and login; names as the log has them';
COMMENT ON COLUMN secretproxy.sums_secrets.verifies IS 'The most verifies in five minutes, counted from 1970; 3 where one ended later than the others were counted; NULL without verifies';
COMMENT ON TABLE secretproxy.sums_open IS 'Accesses of which the log did not say how they ended';
REVOKE ALL ON secretproxy.sums, secretproxy.sums_users, secretproxy.sums_hours, secretproxy.sums_secrets, secretproxy.sums_open FROM PUBLIC, secretproxy_writer, secretproxy_auditor;
GRANT SELECT ON secretproxy.sums, secretproxy.sums_users, secretproxy.sums_hours, secretproxy.sums_secrets, secretproxy.sums_open TO secretproxy_auditor;

-- Adds accesses of a month from `v_from` to before `v_upto` to its sums, as rows before `v_known` tell them; or, of these, those in `v_ids` alone.
CREATE OR REPLACE FUNCTION secretproxy.add_to_sums(
    v_month pg_catalog.timestamptz, v_from pg_catalog.timestamptz, v_upto pg_catalog.timestamptz, v_known pg_catalog.timestamptz,
    v_ids pg_catalog.uuid[] DEFAULT NULL, v_ats pg_catalog.timestamptz[] DEFAULT NULL
) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $body$
BEGIN
    WITH pairs AS MATERIALIZED (
        SELECT a.id, a.at, a.db_user, a.operation, a.owner_id, a.secret_names,
               CASE WHEN a.event OPERATOR(pg_catalog.=) 'attempt' THEN o.role ELSE a.role END AS role,
               CASE WHEN a.event OPERATOR(pg_catalog.=) 'attempt' THEN o.accessed_by ELSE a.accessed_by END AS accessed_by,
               CASE WHEN a.event OPERATOR(pg_catalog.=) 'direct' THEN 'ok' ELSE coalesce(o.outcome, a.outcome) END AS outcome,
               o.function IS NOT NULL AS named
          FROM secretproxy.access_log a
          LEFT JOIN secretproxy.access_log o
            ON o.session_id OPERATOR(pg_catalog.=) a.session_id AND o.statement_no OPERATOR(pg_catalog.=) a.statement_no AND o.event OPERATOR(pg_catalog.=) 'outcome'
           AND o.at OPERATOR(pg_catalog.>=) (a.at OPERATOR(pg_catalog.-) interval '24 hours') AND o.at OPERATOR(pg_catalog.>=) (v_from OPERATOR(pg_catalog.-) interval '24 hours') AND o.at OPERATOR(pg_catalog.<) v_known
           AND (o.function IS NULL OR a.event OPERATOR(pg_catalog.<>) 'attempt'
                OR (o.function OPERATOR(pg_catalog.=) a.function AND (o.owner_id OPERATOR(pg_catalog.=) a.owner_id OR (o.owner_id IS NULL AND a.owner_id IS NULL))
                    AND (o.secret_names OPERATOR(pg_catalog.=) a.secret_names OR (o.secret_names IS NULL AND a.secret_names IS NULL))))
         WHERE a.event OPERATOR(pg_catalog.<>) 'outcome' AND a.event OPERATOR(pg_catalog.=) ANY (ARRAY['attempt', 'access', 'call', 'direct', 'refusal']::pg_catalog.text[])
           AND a.at OPERATOR(pg_catalog.>=) v_from AND a.at OPERATOR(pg_catalog.<) v_upto AND (v_ids IS NULL OR (a.at OPERATOR(pg_catalog.=) ANY (v_ats) AND a.id OPERATOR(pg_catalog.=) ANY (v_ids)))
           AND NOT (a.event OPERATOR(pg_catalog.=) 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL) AND EXISTS (
               SELECT FROM secretproxy.access_log c
                WHERE c.session_id OPERATOR(pg_catalog.=) a.session_id AND c.statement_no OPERATOR(pg_catalog.=) a.statement_no AND c.event OPERATOR(pg_catalog.=) 'call'
                  AND c.at OPERATOR(pg_catalog.>=) (a.at OPERATOR(pg_catalog.-) interval '24 hours') AND c.at OPERATOR(pg_catalog.<) v_known
                  AND pg_catalog.split_part(c.function, '(', 1) OPERATOR(pg_catalog.=) pg_catalog.split_part(a.function, '(', 1)))
    ),
    unended AS MATERIALIZED (SELECT DISTINCT p.id, p.at FROM pairs p WHERE p.outcome IS NULL),
    closed AS MATERIALIZED (SELECT p.* FROM pairs p WHERE NOT EXISTS (SELECT FROM unended u WHERE u.id OPERATOR(pg_catalog.=) p.id)),
    -- Several outcomes that name a call and say the same are one.
    ended AS MATERIALIZED (
        SELECT c.at, c.db_user, c.operation, c.role, c.accessed_by, c.outcome FROM closed c WHERE NOT c.named
        UNION ALL
        SELECT d.at, d.db_user, d.operation, d.role, d.accessed_by, d.outcome
          FROM (SELECT DISTINCT c.id, c.at, c.db_user, c.operation, c.role, c.accessed_by, c.outcome FROM closed c WHERE c.named) d
    ),
    of_users AS (
        INSERT INTO secretproxy.sums_users (month, db_user, role, accessed_by, n, latest)
        SELECT v_month, e.db_user, e.role, e.accessed_by, pg_catalog.count(*), pg_catalog.max(e.at) FROM ended e GROUP BY 2, 3, 4
        RETURNING n
    ),
    of_hours AS (
        INSERT INTO secretproxy.sums_hours (month, quarter, operation, outcome, n)
        SELECT v_month, pg_catalog.floor(pg_catalog.date_part('epoch', e.at) OPERATOR(pg_catalog./) '900'::pg_catalog.float8)::bigint, e.operation, e.outcome, pg_catalog.count(*)
          FROM ended e GROUP BY 2, 3, 4
    ),
    of_secrets AS (
        INSERT INTO secretproxy.sums_secrets (month, owner_id, secret_names, db_user, n, earliest, latest, verifies)
        SELECT v_month, s.owner_id, s.secret_names, s.db_user, pg_catalog.sum(s.n)::bigint, pg_catalog.min(s.earliest), pg_catalog.max(s.latest),
               pg_catalog.max(CASE WHEN s.stretch IS NULL THEN NULL WHEN v_ids IS NULL THEN s.n ELSE 3 END)
          FROM (SELECT c.owner_id, c.secret_names, c.db_user, c.stretch, pg_catalog.count(*) AS n, pg_catalog.min(c.at) AS earliest, pg_catalog.max(c.at) AS latest
                  FROM (SELECT DISTINCT d.id, d.at, d.owner_id, d.secret_names, d.db_user, CASE WHEN d.operation OPERATOR(pg_catalog.=) 'verify'
                               THEN pg_catalog.floor(pg_catalog.date_part('epoch', d.at) OPERATOR(pg_catalog./) '300'::pg_catalog.float8) END AS stretch FROM closed d) c
                 GROUP BY 1, 2, 3, 4) s
         GROUP BY 2, 3, 4
        RETURNING n
    ),
    of_open AS (INSERT INTO secretproxy.sums_open (month, id, at) SELECT v_month, u.id, u.at FROM unended u RETURNING id)
    UPDATE secretproxy.sums s
       SET ended = s.ended OPERATOR(pg_catalog.+) (SELECT coalesce(pg_catalog.sum(w.n), '0')::bigint FROM of_users w),
           accesses = s.accesses OPERATOR(pg_catalog.+) (SELECT coalesce(pg_catalog.sum(w.n), '0')::bigint FROM of_secrets w),
           added = s.added OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM of_secrets w),
           open = s.open OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM of_open w)
     WHERE s.month OPERATOR(pg_catalog.=) v_month;
END
$body$;
COMMENT ON FUNCTION secretproxy.add_to_sums(pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.uuid[], pg_catalog.timestamptz[]) IS 'Adds accesses of a month to its sums; called by keep_sums alone';
ALTER FUNCTION secretproxy.add_to_sums(pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.uuid[], pg_catalog.timestamptz[]) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.add_to_sums(pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.timestamptz, pg_catalog.uuid[], pg_catalog.timestamptz[]) FROM PUBLIC;

-- Takes away the sums of a month, or all. A month whose line stays is made again from its first row.
CREATE OR REPLACE FUNCTION secretproxy.drop_sums(v_month pg_catalog.timestamptz) RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    DELETE FROM secretproxy.sums_users s WHERE v_month IS NULL OR s.month OPERATOR(pg_catalog.=) v_month;
    DELETE FROM secretproxy.sums_hours s WHERE v_month IS NULL OR s.month OPERATOR(pg_catalog.=) v_month;
    DELETE FROM secretproxy.sums_secrets s WHERE v_month IS NULL OR s.month OPERATOR(pg_catalog.=) v_month;
    DELETE FROM secretproxy.sums_open s WHERE v_month IS NULL OR s.month OPERATOR(pg_catalog.=) v_month;
    DELETE FROM secretproxy.sums s WHERE v_month IS NULL;
    UPDATE secretproxy.sums s SET upto = s.month, leans = false, counted = 0, times = 0, ended = 0, accesses = 0, open = 0, compact = 0, added = 0,
           checked = pg_catalog.clock_timestamp() WHERE s.month OPERATOR(pg_catalog.=) v_month;
END
$body$;
COMMENT ON FUNCTION secretproxy.drop_sums(pg_catalog.timestamptz) IS 'Takes away the sums of a month, or all; called by keep_sums alone';
ALTER FUNCTION secretproxy.drop_sums(pg_catalog.timestamptz) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.drop_sums(pg_catalog.timestamptz) FROM PUBLIC;

-- Makes one step of the sums: of at most about `step_rows` rows, none of which is younger than `settled` seconds. Each step is a transaction
-- of its own, which others need not wait for. Steps end at multiples of five minutes, so that verifies in a row are counted whole. Evidence is taken before what it is for: a row that comes between the two does not fit it.
CREATE OR REPLACE FUNCTION secretproxy.keep_sums(step_rows bigint DEFAULT 100000, settled bigint DEFAULT 43200) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '500ms'
SET client_min_messages = warning
SET plan_cache_mode = force_custom_plan
SET jit = off
SET work_mem = '64MB'
AS $body$
#variable_conflict use_variable
DECLARE
    c_form CONSTANT pg_catalog.int4 := 1;
    v_end pg_catalog.timestamptz;
    v_known pg_catalog.timestamptz;
    v_month pg_catalog.timestamptz;
    v_from pg_catalog.timestamptz;
    v_upto pg_catalog.timestamptz;
    v_next pg_catalog.timestamptz;
    v_rewritten pg_catalog.int8;
    v_rows pg_catalog.int8;
    v_times pg_catalog.int8;
    v_leans pg_catalog.bool;
    v_ids pg_catalog.uuid[];
    v_ats pg_catalog.timestamptz[];
BEGIN
    IF step_rows IS NULL OR step_rows OPERATOR(pg_catalog.<) 1 OR step_rows OPERATOR(pg_catalog.>) 1000000 OR settled IS NULL OR settled OPERATOR(pg_catalog.<) 0 OR settled OPERATOR(pg_catalog.>) 2592000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'step_rows must be between 1 and 1000000, settled between 0 and 2592000 seconds';
    END IF;
    -- Another process makes a step. No advisory lock, which every login may hold.
    BEGIN
        LOCK TABLE secretproxy.sums IN SHARE ROW EXCLUSIVE MODE;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    v_end := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => settled::pg_catalog.float8);
    v_rewritten := (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(i.inhrelid)), '0')::bigint FROM pg_catalog.pg_inherits i
                     WHERE i.inhparent OPERATOR(pg_catalog.=) 'secretproxy.access_log'::pg_catalog.regclass::pg_catalog.oid);
    -- Of another version of this function, or of rows that were rewritten: everything is made again.
    IF EXISTS (SELECT FROM secretproxy.sums s WHERE s.form OPERATOR(pg_catalog.<>) c_form OR s.rewritten OPERATOR(pg_catalog.<>) v_rewritten) THEN
        PERFORM secretproxy.drop_sums(NULL);
    END IF;

    -- A month that is not whole: the next rows of it, as the same rows tell them that the others were made of.
    SELECT s.month, s.upto, s.known INTO v_month, v_from, v_known FROM secretproxy.sums s
     WHERE s.upto OPERATOR(pg_catalog.<) least(s.month OPERATOR(pg_catalog.+) interval '1 month', s.known) ORDER BY s.month LIMIT 1;
    IF NOT FOUND THEN
        -- Rows of a month that had none when its neighbours were counted.
        SELECT pg_catalog.date_trunc('month', f.at), g.known INTO v_month, v_known
          FROM (SELECT s.upto AS after, pg_catalog.lead(s.month) OVER (ORDER BY s.month) AS before, s.known FROM secretproxy.sums s
                UNION ALL SELECT '-infinity', pg_catalog.min(s.month), pg_catalog.min(s.known) FROM secretproxy.sums s) g
         CROSS JOIN LATERAL (SELECT pg_catalog.min(l.at) AS at FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) g.after AND l.at OPERATOR(pg_catalog.<) g.before) f
         WHERE f.at IS NOT NULL AND pg_catalog.isfinite(f.at) LIMIT 1;
        IF FOUND THEN
            v_from := v_month;
            INSERT INTO secretproxy.sums (month, upto, known, form, rewritten) VALUES (v_month, v_month, v_known, c_form, v_rewritten);
        END IF;
    END IF;
    IF v_month IS NOT NULL THEN
        v_upto := (SELECT l.at FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) v_from ORDER BY l.at OFFSET step_rows LIMIT 1);
        v_upto := pg_catalog.to_timestamp(pg_catalog.ceil(pg_catalog.date_part('epoch', v_upto) OPERATOR(pg_catalog./) '300'::pg_catalog.float8) OPERATOR(pg_catalog.*) '300'::pg_catalog.float8);
        -- Without so many rows: all of them.
        v_upto := least(greatest(coalesce(v_upto, 'infinity'), (v_from OPERATOR(pg_catalog.+) interval '5 minutes')), (v_month OPERATOR(pg_catalog.+) interval '1 month'), v_known);
    ELSE
        -- The rows behind the newest sum, once there are enough of them.
        v_known := (SELECT pg_catalog.max(s.known) FROM secretproxy.sums s);
        v_from := (SELECT pg_catalog.min(l.at) FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) coalesce(v_known, '-infinity'));
        v_upto := (SELECT l.at FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) v_from AND l.at OPERATOR(pg_catalog.<) v_end ORDER BY l.at OFFSET step_rows LIMIT 1);
        v_upto := pg_catalog.to_timestamp(pg_catalog.ceil(pg_catalog.date_part('epoch', v_upto) OPERATOR(pg_catalog./) '300'::pg_catalog.float8) OPERATOR(pg_catalog.*) '300'::pg_catalog.float8);
        IF v_upto OPERATOR(pg_catalog.<=) v_from THEN
            -- More rows of one moment than a step has.
            v_upto := v_upto OPERATOR(pg_catalog.+) interval '5 minutes';
        END IF;
        IF v_upto IS NULL OR v_upto OPERATOR(pg_catalog.>) v_end THEN
            -- Nothing to add: the sum that was not looked at for longest, if that is an hour.
            SELECT s.month, s.upto, CASE WHEN s.leans THEN (s.month OPERATOR(pg_catalog.-) interval '24 hours') ELSE s.month END INTO v_month, v_upto, v_from
              FROM secretproxy.sums s WHERE s.checked OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) interval '1 hour') ORDER BY s.checked LIMIT 1;
            IF NOT FOUND THEN
                RETURN false;
            END IF;
            SELECT pg_catalog.count(*), coalesce(pg_catalog.bit_xor((pg_catalog.date_part('epoch', l.at) OPERATOR(pg_catalog.*) '1000000'::pg_catalog.float8)::bigint), '0')
              INTO v_rows, v_times FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) v_from AND l.at OPERATOR(pg_catalog.<) v_upto;
            UPDATE secretproxy.sums s SET checked = pg_catalog.clock_timestamp() WHERE s.month OPERATOR(pg_catalog.=) v_month AND s.counted OPERATOR(pg_catalog.=) v_rows AND s.times OPERATOR(pg_catalog.=) v_times;
            IF NOT FOUND THEN
                -- A month without rows was removed from the log, which concerns no other. Else a row came late or went, and it may be the
                -- outcome of an access of any month.
                PERFORM secretproxy.drop_sums(CASE WHEN v_rows OPERATOR(pg_catalog.=) 0 THEN v_month END);
                DELETE FROM secretproxy.sums s WHERE s.month OPERATOR(pg_catalog.=) v_month;
            END IF;
            RETURN true;
        END IF;
        IF NOT pg_catalog.isfinite(v_from) THEN
            RETURN false;
        END IF;
        v_month := pg_catalog.date_trunc('month', v_from);
        v_upto := least(v_upto, (v_month OPERATOR(pg_catalog.+) interval '1 month'));
        IF v_known IS NOT NULL THEN
            -- A row that changes what is counted already: that month is counted again.
            PERFORM secretproxy.drop_sums(m.month) FROM (
                SELECT DISTINCT pg_catalog.date_trunc('month', a.at) AS month
                  FROM secretproxy.access_log o JOIN secretproxy.access_log a ON a.session_id OPERATOR(pg_catalog.=) o.session_id AND a.statement_no OPERATOR(pg_catalog.=) o.statement_no
                 WHERE o.event OPERATOR(pg_catalog.=) ANY (ARRAY['outcome', 'call']::pg_catalog.text[]) AND o.at OPERATOR(pg_catalog.>=) v_known AND o.at OPERATOR(pg_catalog.<) v_upto
                   AND a.event OPERATOR(pg_catalog.=) ANY (ARRAY['attempt', 'access', 'call', 'refusal']::pg_catalog.text[]) AND a.at OPERATOR(pg_catalog.<) v_known
                   AND CASE WHEN o.event OPERATOR(pg_catalog.=) 'outcome' THEN
                            o.function IS NULL OR a.event OPERATOR(pg_catalog.<>) 'attempt'
                            OR (o.function OPERATOR(pg_catalog.=) a.function AND (o.owner_id OPERATOR(pg_catalog.=) a.owner_id OR (o.owner_id IS NULL AND a.owner_id IS NULL))
                                AND (o.secret_names OPERATOR(pg_catalog.=) a.secret_names OR (o.secret_names IS NULL AND a.secret_names IS NULL)))
                       ELSE a.event OPERATOR(pg_catalog.=) 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL)
                            AND pg_catalog.split_part(o.function, '(', 1) OPERATOR(pg_catalog.=) pg_catalog.split_part(a.function, '(', 1) END
                   AND NOT EXISTS (SELECT FROM secretproxy.sums_open p WHERE p.id OPERATOR(pg_catalog.=) a.id)
                   -- An attempt that a call stands for is in no sum.
                   AND NOT (a.event OPERATOR(pg_catalog.=) 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL) AND EXISTS (
                       SELECT FROM secretproxy.access_log c
                        WHERE c.session_id OPERATOR(pg_catalog.=) a.session_id AND c.statement_no OPERATOR(pg_catalog.=) a.statement_no
                          AND c.event OPERATOR(pg_catalog.=) 'call' AND c.at OPERATOR(pg_catalog.<) v_known
                          AND c.at OPERATOR(pg_catalog.>=) (a.at OPERATOR(pg_catalog.-) interval '24 hours')
                          AND pg_catalog.split_part(c.function, '(', 1) OPERATOR(pg_catalog.=) pg_catalog.split_part(a.function, '(', 1)))) m;
            -- What was open may have ended.
            FOR v_next, v_ids, v_ats IN
                WITH gone AS (DELETE FROM secretproxy.sums_open p RETURNING p.month, p.id, p.at)
                SELECT g.month, pg_catalog.array_agg(g.id), pg_catalog.array_agg(g.at) FROM gone g GROUP BY g.month
            LOOP
                UPDATE secretproxy.sums s SET open = 0 WHERE s.month OPERATOR(pg_catalog.=) v_next;
                PERFORM secretproxy.add_to_sums(v_next, (SELECT pg_catalog.min(u.at) FROM pg_catalog.unnest(v_ats) u (at)),
                            (SELECT pg_catalog.max(u.at) OPERATOR(pg_catalog.+) interval '1 microsecond' FROM pg_catalog.unnest(v_ats) u (at)), v_upto, v_ids, v_ats);
            END LOOP;
            UPDATE secretproxy.sums s SET known = v_upto;
        END IF;
        v_known := v_upto;
        INSERT INTO secretproxy.sums (month, upto, known, form, rewritten) VALUES (v_month, v_month, v_known, c_form, v_rewritten)
        ON CONFLICT (month) DO NOTHING;
        -- It was emptied a moment ago: from its beginning, in the next steps.
        v_from := (SELECT s.upto FROM secretproxy.sums s WHERE s.month OPERATOR(pg_catalog.=) v_month);
        IF EXISTS (SELECT FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) v_from AND l.at OPERATOR(pg_catalog.<) v_known OFFSET (step_rows OPERATOR(pg_catalog.+) step_rows)) THEN
            RETURN true;
        END IF;
    END IF;

    SELECT pg_catalog.count(*), coalesce(pg_catalog.bit_xor((pg_catalog.date_part('epoch', l.at) OPERATOR(pg_catalog.*) '1000000'::pg_catalog.float8)::bigint), '0')
      INTO v_rows, v_times FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) v_from AND l.at OPERATOR(pg_catalog.<) v_upto;
    SELECT s.leans INTO v_leans FROM secretproxy.sums s WHERE s.month OPERATOR(pg_catalog.=) v_month;
    IF NOT v_leans AND v_from OPERATOR(pg_catalog.<) (v_month OPERATOR(pg_catalog.+) interval '24 hours') THEN
        v_leans := EXISTS (SELECT FROM secretproxy.access_log o JOIN secretproxy.access_log a ON a.session_id OPERATOR(pg_catalog.=) o.session_id AND a.statement_no OPERATOR(pg_catalog.=) o.statement_no
             WHERE o.event OPERATOR(pg_catalog.=) ANY (ARRAY['outcome', 'call']::pg_catalog.text[]) AND o.at OPERATOR(pg_catalog.>=) (v_month OPERATOR(pg_catalog.-) interval '24 hours') AND o.at OPERATOR(pg_catalog.<) v_month
               AND a.event OPERATOR(pg_catalog.<>) 'outcome' AND a.at OPERATOR(pg_catalog.>=) v_from AND a.at OPERATOR(pg_catalog.<) v_upto AND a.at OPERATOR(pg_catalog.<) (v_month OPERATOR(pg_catalog.+) interval '24 hours'));
        IF v_leans THEN
            SELECT v_rows OPERATOR(pg_catalog.+) pg_catalog.count(*),
                   v_times OPERATOR(pg_catalog.#) coalesce(pg_catalog.bit_xor((pg_catalog.date_part('epoch', l.at) OPERATOR(pg_catalog.*) '1000000'::pg_catalog.float8)::bigint), '0')
              INTO v_rows, v_times FROM secretproxy.access_log l WHERE l.at OPERATOR(pg_catalog.>=) (v_month OPERATOR(pg_catalog.-) interval '24 hours') AND l.at OPERATOR(pg_catalog.<) v_month;
        END IF;
    END IF;
    PERFORM secretproxy.add_to_sums(v_month, v_from, v_upto, v_known);
    UPDATE secretproxy.sums s SET upto = v_upto, leans = v_leans, counted = s.counted OPERATOR(pg_catalog.+) v_rows, times = s.times OPERATOR(pg_catalog.#) v_times,
           checked = pg_catalog.clock_timestamp() WHERE s.month OPERATOR(pg_catalog.=) v_month;

    -- Groups of several steps become one once they are as many as the rest.
    IF EXISTS (SELECT FROM secretproxy.sums s WHERE s.month OPERATOR(pg_catalog.=) v_month AND s.added OPERATOR(pg_catalog.>) greatest(s.compact, step_rows)) THEN
        WITH old AS (DELETE FROM secretproxy.sums_users s WHERE s.month OPERATOR(pg_catalog.=) v_month RETURNING s.*)
        INSERT INTO secretproxy.sums_users (month, db_user, role, accessed_by, n, latest)
        SELECT v_month, o.db_user, o.role, o.accessed_by, pg_catalog.sum(o.n)::bigint, pg_catalog.max(o.latest) FROM old o GROUP BY 2, 3, 4;
        WITH old AS (DELETE FROM secretproxy.sums_hours s WHERE s.month OPERATOR(pg_catalog.=) v_month RETURNING s.*)
        INSERT INTO secretproxy.sums_hours (month, quarter, operation, outcome, n)
        SELECT v_month, o.quarter, o.operation, o.outcome, pg_catalog.sum(o.n)::bigint FROM old o GROUP BY 2, 3, 4;
        WITH old AS (DELETE FROM secretproxy.sums_secrets s WHERE s.month OPERATOR(pg_catalog.=) v_month RETURNING s.*)
        INSERT INTO secretproxy.sums_secrets (month, owner_id, secret_names, db_user, n, earliest, latest, verifies)
        SELECT v_month, o.owner_id, o.secret_names, o.db_user, pg_catalog.sum(o.n)::bigint, pg_catalog.min(o.earliest), pg_catalog.max(o.latest),
               pg_catalog.max(o.verifies)
          FROM old o GROUP BY 2, 3, 4;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        UPDATE secretproxy.sums s SET compact = v_rows, added = 0 WHERE s.month OPERATOR(pg_catalog.=) v_month;
    END IF;
    RETURN true;
END
$body$;
COMMENT ON FUNCTION secretproxy.keep_sums(bigint, bigint) IS 'Makes one step of the sums of the log; says whether there may be another';
ALTER FUNCTION secretproxy.keep_sums(bigint, bigint) OWNER TO secretproxy_owner;
REVOKE ALL ON FUNCTION secretproxy.keep_sums(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secretproxy.keep_sums(bigint, bigint) TO secretproxy_writer;

DO $do$ BEGIN PERFORM secretproxy.drop_default_grants(); END $do$;
INSERT INTO secretproxy.changes (change, digest)
VALUES ('kept_sums', '0000000000000000000000000000000000000000000000000000000000000000')
ON CONFLICT (change) DO UPDATE SET digest = EXCLUDED.digest, deployed_at = DEFAULT, deployed_by = DEFAULT;
COMMIT;
