"""Defines the queries of the catalog: which objects depend on others, which functions' bodies have a name, whether
anything has changed.

Reads pg_catalog alone, which every role may. The same for PostgreSQL 14 to 18. Bits of `needs` and `gives` are those of
detect.dependencies; temporary objects are left out, as another session's names say nothing of this one's.
"""

import re
from collections.abc import Iterable

# Changes when anything does that could lead to a secret function.
_TABLES = (
    "pg_proc", "pg_class", "pg_rewrite", "pg_trigger", "pg_operator", "pg_cast", "pg_type", "pg_attrdef",
        "pg_constraint",
    "pg_policy", "pg_inherits", "pg_event_trigger", "pg_opclass", "pg_amop", "pg_amproc", "pg_statistic_ext",
    "pg_namespace",
)  # fmt: skip
_COUNTED = ", ".join(
    "(SELECT pg_catalog.count(*) OPERATOR(pg_catalog.||) ':' OPERATOR(pg_catalog.||) "  # noqa: S608 - constant names
    f"coalesce(pg_catalog.sum(xmin::pg_catalog.text::bigint), 0) FROM pg_catalog.{table})"
    for table in _TABLES
)
FINGERPRINT = f"SELECT pg_catalog.concat_ws(' ', {_COUNTED})"

SECRETS = """
SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid AS class, p.oid AS obj, n.nspname AS schema,
    p.proname AS name, p.oid::pg_catalog.regprocedure::pg_catalog.text AS identity
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
 WHERE n.nspname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])
"""

# What a text calls a function, and how many arguments it takes there. A trigger function is called by none.
_FUNCTION = """
  CASE WHEN p.prorettype OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.trigger'::pg_catalog.regtype,
      'pg_catalog.event_trigger'::pg_catalog.regtype]) THEN 1000000
       WHEN p.prokind OPERATOR(pg_catalog.=) 'a' THEN 0
           ELSE p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults END AS least,
  CASE WHEN p.provariadic OPERATOR(pg_catalog.<>) 0
      OR p.prokind OPERATOR(pg_catalog.=) 'a' THEN -1 ELSE p.pronargs END AS most,
  p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults OPERATOR(pg_catalog.<=) 1 AND EXISTS (SELECT
      FROM pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]
      AND t.typtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'p']))
    AS takes_row
"""

EDGES = f"""
WITH asked AS (SELECT * FROM ROWS
    FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.oid[])) AS a (class, obj)),
dependent AS (
  SELECT a.class AS ref, a.obj AS source, d.classid, d.objid
    FROM asked a JOIN pg_catalog.pg_depend d ON d.refclassid OPERATOR(pg_catalog.=) a.class
        AND d.refobjid OPERATOR(pg_catalog.=) a.obj
   WHERE d.deptype OPERATOR(pg_catalog.=) ANY (ARRAY['n', 'a', 'i'])
   GROUP BY 1, 2, 3, 4
),
found (ref, source, class, obj, needs, gives, through) AS (
  -- Views, and rules that do something else besides or instead.
  SELECT d.ref, d.source, 'pg_catalog.pg_class'::pg_catalog.regclass, r.ev_class,
         CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'm'
             AND d.ref OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass THEN 1 ELSE 0 END,
         CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'm' THEN 32
              WHEN r.ev_type OPERATOR(pg_catalog.<>) '1' THEN CASE WHEN r.ev_type OPERATOR(pg_catalog.=) '2' THEN 4
                  WHEN r.ev_type OPERATOR(pg_catalog.=) '3' THEN 2 ELSE 8 END
              WHEN d.ref OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass THEN -1 ELSE 15 END,
         CASE WHEN r.ev_type OPERATOR(pg_catalog.<>) '1'
             THEN 'rule ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid, 0)).identity END
    FROM dependent d
        JOIN pg_catalog.pg_rewrite r ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
            AND r.oid OPERATOR(pg_catalog.=) d.objid JOIN pg_catalog.pg_class c
            ON c.oid OPERATOR(pg_catalog.=) r.ev_class
   WHERE r.ev_enabled OPERATOR(pg_catalog.<>) 'D'
       AND (d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass
       OR r.ev_class OPERATOR(pg_catalog.<>) d.source)
UNION ALL
  SELECT d.ref, d.source, 'pg_catalog.pg_class'::pg_catalog.regclass, t.tgrelid, 0,
         (t.tgtype OPERATOR(pg_catalog.>>) 2 OPERATOR(pg_catalog.&) 1) OPERATOR(pg_catalog.*) 2
             OPERATOR(pg_catalog.+) ((t.tgtype OPERATOR(pg_catalog.>>) 4 OPERATOR(pg_catalog.&) 1)
                 OPERATOR(pg_catalog.*) 4) OPERATOR(pg_catalog.+) ((t.tgtype OPERATOR(pg_catalog.>>) 3
                     OPERATOR(pg_catalog.&) 1) OPERATOR(pg_catalog.*) 8)
                         OPERATOR(pg_catalog.+) ((t.tgtype OPERATOR(pg_catalog.>>) 5 OPERATOR(pg_catalog.&) 1) OPERATOR(pg_catalog.*) 16),
         'trigger ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, 0)).identity
    FROM dependent d
        JOIN pg_catalog.pg_trigger t ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_trigger'::pg_catalog.regclass
            AND t.oid OPERATOR(pg_catalog.=) d.objid
   WHERE t.tgenabled OPERATOR(pg_catalog.<>) 'D'
       AND d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL
  SELECT d.ref, d.source, 'pg_catalog.pg_class'::pg_catalog.regclass, a.adrelid, 0,
      CASE WHEN b.attgenerated OPERATOR(pg_catalog.=) '' THEN 2 WHEN b.attgenerated OPERATOR(pg_catalog.=) 's' THEN 6
          ELSE 15 END,
         'default ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_attrdef'::pg_catalog.regclass, a.oid, 0)).identity
    FROM dependent d
        JOIN pg_catalog.pg_attrdef a ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
            AND a.oid OPERATOR(pg_catalog.=) d.objid
    JOIN pg_catalog.pg_attribute b ON b.attrelid OPERATOR(pg_catalog.=) a.adrelid
        AND b.attnum OPERATOR(pg_catalog.=) a.adnum
   WHERE d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL
  SELECT d.ref, d.source,
      CASE WHEN c.contypid OPERATOR(pg_catalog.=) 0 THEN 'pg_catalog.pg_class'::pg_catalog.regclass
          ELSE 'pg_catalog.pg_type'::pg_catalog.regclass END,
         CASE WHEN c.contypid OPERATOR(pg_catalog.=) 0 THEN c.conrelid ELSE c.contypid END, 0, 6,
         'constraint ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, 0)).identity
    FROM dependent d
        JOIN pg_catalog.pg_constraint c
            ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass
                AND c.oid OPERATOR(pg_catalog.=) d.objid
   WHERE d.ref OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog.pg_class'::pg_catalog.regclass,
       'pg_catalog.pg_type'::pg_catalog.regclass])
       OR (d.ref OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
       AND c.contypid OPERATOR(pg_catalog.<>) ALL (ARRAY[0, d.source]))
UNION ALL
  SELECT d.ref, d.source, 'pg_catalog.pg_class'::pg_catalog.regclass, p.polrelid,
      CASE WHEN d.ref OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass THEN 1 ELSE 0 END,
         CASE WHEN p.polcmd OPERATOR(pg_catalog.=) 'a' THEN 2 WHEN p.polcmd OPERATOR(pg_catalog.=) 'w' THEN 4
             WHEN p.polcmd OPERATOR(pg_catalog.=) 'd' THEN 8 WHEN p.polcmd OPERATOR(pg_catalog.=) 'r' THEN 13
                 ELSE 15 END,
         'policy ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_policy'::pg_catalog.regclass,
         p.oid, 0)).identity
    FROM dependent d
        JOIN pg_catalog.pg_policy p ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
            AND p.oid OPERATOR(pg_catalog.=) d.objid
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid AND c.relrowsecurity
   WHERE d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass
       OR p.polrelid OPERATOR(pg_catalog.<>) d.source
UNION ALL
  -- Indexes, partition keys, columns of a domain, composite types.
  SELECT d.ref, d.source,
      CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'c' THEN 'pg_catalog.pg_type'::pg_catalog.regclass
          ELSE 'pg_catalog.pg_class'::pg_catalog.regclass END,
         CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'c' THEN c.reltype ELSE coalesce(i.indrelid, c.oid) END, 0,
             CASE WHEN i.indrelid IS NULL THEN 6 ELSE 38 END,
         CASE WHEN i.indrelid IS NOT NULL
             THEN 'index ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0)).identity END
    FROM dependent d
        JOIN pg_catalog.pg_class c ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        AND c.oid OPERATOR(pg_catalog.=) d.objid LEFT
        JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
   WHERE d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass
       AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['i', 'I', 'r', 'p', 'f', 'c'])
UNION ALL
  SELECT d.ref, d.source, 'pg_catalog.pg_class'::pg_catalog.regclass, s.stxrelid, 0, 32,
         'statistics ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, 0)).identity
    FROM dependent d
        JOIN pg_catalog.pg_statistic_ext s
            ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
                AND s.oid OPERATOR(pg_catalog.=) d.objid
   WHERE d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL
  -- Functions by their defaults, arguments and parts; one with a parsed body over a relation is read as a body.
  SELECT d.ref, d.source, d.classid, d.objid, 0, 0, NULL
    FROM dependent d
   WHERE (d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
       AND d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass)
      OR (d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_operator'::pg_catalog.regclass,
          'pg_catalog.pg_event_trigger'::pg_catalog.regclass, 'pg_catalog.pg_cast'::pg_catalog.regclass])
          AND d.ref OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass)
      OR (d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
          AND d.ref OPERATOR(pg_catalog.<>) 'pg_catalog.pg_class'::pg_catalog.regclass)
      OR d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_opclass'::pg_catalog.regclass,
          'pg_catalog.pg_opfamily'::pg_catalog.regclass])
UNION ALL
  SELECT d.ref, d.source, 'pg_catalog.pg_opfamily'::pg_catalog.regclass, p.amprocfamily, 0, 0, NULL
    FROM dependent d
        JOIN pg_catalog.pg_amproc p ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_amproc'::pg_catalog.regclass
            AND p.oid OPERATOR(pg_catalog.=) d.objid
UNION ALL
  SELECT d.ref, d.source, 'pg_catalog.pg_opfamily'::pg_catalog.regclass, p.amopfamily, 0, 0, NULL
    FROM dependent d
        JOIN pg_catalog.pg_amop p ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_amop'::pg_catalog.regclass
        AND p.oid OPERATOR(pg_catalog.=) d.objid
UNION ALL
  -- What no dependency says: parents of partitions and of heirs, foreign keys that cascade.
  SELECT a.class, a.obj, 'pg_catalog.pg_class'::pg_catalog.regclass, h.inhparent, 0, -1, NULL
    FROM asked a JOIN pg_catalog.pg_inherits h ON h.inhrelid OPERATOR(pg_catalog.=) a.obj
        WHERE a.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
UNION ALL
  SELECT a.class, a.obj, 'pg_catalog.pg_class'::pg_catalog.regclass, k.confrelid, e.needs, e.gives,
         'constraint ' OPERATOR(pg_catalog.||) (pg_catalog.pg_identify_object('pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, 0)).identity
    FROM asked a JOIN pg_catalog.pg_constraint k ON k.conrelid OPERATOR(pg_catalog.=) a.obj
        AND k.contype OPERATOR(pg_catalog.=) 'f'
    CROSS JOIN LATERAL (VALUES (CASE WHEN k.confdeltype OPERATOR(pg_catalog.=) 'c' THEN 8
        WHEN k.confdeltype OPERATOR(pg_catalog.=) 'n' THEN 4 WHEN k.confdeltype OPERATOR(pg_catalog.=) 'd' THEN 4 END,
            8),
                               (CASE WHEN k.confupdtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'n', 'd']) THEN 4 END,
                                   4)) AS e (needs, gives)
   WHERE a.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND e.needs IS NOT NULL
)
SELECT f.ref::pg_catalog.oid AS ref, f.source, f.class::pg_catalog.oid AS class, f.obj, f.needs, f.gives, f.through,
    coalesce(n.nspname, '') AS schema,
       coalesce(p.proname, c.relname, o.oprname, t.typname, e.evtname, '') AS name,
       CASE WHEN p.oid IS NOT NULL THEN 'function' WHEN c.oid IS NOT NULL THEN 'relation' WHEN o.oid IS NOT NULL
           THEN 'operator'
            WHEN t.oid IS NOT NULL THEN 'type' WHEN e.oid IS NOT NULL THEN 'event' ELSE 'other' END AS kind,
       pg_catalog.replace(CASE WHEN p.oid IS NOT NULL THEN ''
           ELSE i.type OPERATOR(pg_catalog.||) ' ' END OPERATOR(pg_catalog.||) i.identity, 'pg_catalog.',
               '') AS identity,
       coalesce(p.least, 0) AS least, coalesce(p.most, -1) AS most, coalesce(p.takes_row, false) AS takes_row,
           e.evttags AS commands
  FROM found f
  CROSS JOIN LATERAL pg_catalog.pg_identify_object(f.class, f.obj, 0) AS i
  LEFT JOIN LATERAL (SELECT p.oid, p.proname, p.pronamespace, {_FUNCTION} FROM pg_catalog.pg_proc p
                      WHERE f.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                          AND p.oid OPERATOR(pg_catalog.=) f.obj) AS p ON true
  LEFT JOIN pg_catalog.pg_class c ON f.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
      AND c.oid OPERATOR(pg_catalog.=) f.obj
  LEFT JOIN pg_catalog.pg_operator o ON f.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass
      AND o.oid OPERATOR(pg_catalog.=) f.obj
  LEFT JOIN pg_catalog.pg_cast k ON f.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass
      AND k.oid OPERATOR(pg_catalog.=) f.obj
  -- A cast is seen by the type it makes, where that is nobody else's: `::text` stands everywhere.
  LEFT JOIN pg_catalog.pg_type t ON (f.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass
      AND t.oid OPERATOR(pg_catalog.=) f.obj) OR (t.oid OPERATOR(pg_catalog.=) k.casttarget
      AND t.oid OPERATOR(pg_catalog.>=) 16384)
  LEFT JOIN pg_catalog.pg_event_trigger e
      ON f.class OPERATOR(pg_catalog.=) 'pg_catalog.pg_event_trigger'::pg_catalog.regclass
          AND e.oid OPERATOR(pg_catalog.=) f.obj AND e.evtenabled OPERATOR(pg_catalog.<>) 'D'
          AND e.evtevent OPERATOR(pg_catalog.<>) 'login'
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) coalesce(p.pronamespace, c.relnamespace,
      o.oprnamespace, t.typnamespace)
 WHERE i.identity IS NOT NULL AND coalesce(n.nspname, '') OPERATOR(pg_catalog.!~) '^pg_temp_'
     AND NOT (coalesce(n.nspname, '') OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.text[]))
   AND NOT EXISTS (SELECT FROM ROWS
   FROM (pg_catalog.unnest($4::pg_catalog.text[]), pg_catalog.unnest($5::pg_catalog.text[])) AS r (schema,
       name) WHERE r.schema OPERATOR(pg_catalog.=) n.nspname AND r.name OPERATOR(pg_catalog.=) c.relname)
"""  # noqa: S608 - constant

# Functions that a body leads from: those whose text has one of the words, and those whose body is kept parsed. The text
# of the latter is made from the catalog, which locks what it names: DEFINITIONS makes it for a few at a time.
BODIES = """
SELECT p.oid AS obj
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
      JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
 WHERE p.oid OPERATOR(pg_catalog.>=) 16384 AND p.prokind OPERATOR(pg_catalog.<>) 'a'
     AND l.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['internal', 'c'])
   AND n.nspname OPERATOR(pg_catalog.!~) '^pg_temp_'
       AND NOT (n.nspname OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.text[]))
       AND NOT (p.oid OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.oid[]))
   AND (p.prosqlbody IS NOT NULL OR pg_catalog.lower(p.prosrc) OPERATOR(pg_catalog.~) $1)
 ORDER BY p.oid
"""

DEFINITIONS = f"""
SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid AS class, p.oid AS obj, n.nspname AS schema,
    p.proname AS name,
       pg_catalog.replace((pg_catalog.pg_identify_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid,
           0)).identity, 'pg_catalog.', '') AS identity,
       l.lanname AS language, pg_catalog.pg_get_functiondef(p.oid) AS definition,
       {_FUNCTION}
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
      JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
 WHERE p.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
   AND (p.prosqlbody IS NULL
   OR pg_catalog.lower(pg_catalog.pg_get_function_sqlbody(p.oid)) OPERATOR(pg_catalog.~) $2)
"""  # noqa: S608 - constant


def regular_expression(words: Iterable[str]) -> str:
    """Makes the expression that finds one of the words in a body: as a whole word if it is one."""
    return "|".join(
        rf"\m{word}\M" if re.fullmatch(r"\w+", word) else re.sub(r"([^\w\s])", r"\\\1", word) for word in words
    )
