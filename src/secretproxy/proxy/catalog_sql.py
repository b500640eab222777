"""What the catalog is asked: which objects depend on others, which functions' bodies hold a name, whether anything has changed.

Reads pg_catalog alone, which every role may. The same for PostgreSQL 14 to 18. Bits of `needs` and `gives` are those of
detect.leads; temporary objects are left out, as another session's names say nothing of this one's.
"""

import re
from collections.abc import Iterable

# Changes when anything does that could lead to a secret function.
_TABLES = (
    "pg_proc", "pg_class", "pg_rewrite", "pg_trigger", "pg_operator", "pg_cast", "pg_type", "pg_attrdef", "pg_constraint",
    "pg_policy", "pg_inherits", "pg_event_trigger", "pg_opclass", "pg_namespace",
)  # fmt: skip
_COUNTED = ", ".join(f"(SELECT count(*) || ':' || coalesce(sum(xmin::text::bigint), 0) FROM {table})" for table in _TABLES)  # noqa: S608
FINGERPRINT = f"SELECT concat_ws(' ', {_COUNTED})"

SECRETS = """
SELECT 'pg_proc'::regclass::oid AS class, p.oid AS obj, n.nspname AS schema, p.proname AS name, p.oid::regprocedure::text AS identity
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = ANY ($1::text[])
"""

# What a text calls a function, and how many arguments it takes there. A trigger function is called by none.
_FUNCTION = """
  CASE WHEN p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) THEN 1000000
       WHEN p.prokind = 'a' THEN 0 ELSE p.pronargs - p.pronargdefaults END AS least,
  CASE WHEN p.provariadic <> 0 OR p.prokind = 'a' THEN -1 ELSE p.pronargs END AS most,
  p.pronargs - p.pronargdefaults <= 1 AND EXISTS (SELECT FROM pg_type t WHERE t.oid = p.proargtypes[0] AND t.typtype IN ('c', 'p'))
    AS takes_row
"""

EDGES = f"""
WITH asked AS (SELECT * FROM unnest($1::oid[], $2::oid[]) AS a (class, obj)),
dependent AS (
  SELECT a.class AS ref, a.obj AS source, d.classid, d.objid
    FROM asked a JOIN pg_depend d ON d.refclassid = a.class AND d.refobjid = a.obj
   WHERE d.deptype IN ('n', 'a', 'i')
   GROUP BY 1, 2, 3, 4
),
found (ref, source, class, obj, needs, gives, through) AS (
  -- Views, and rules that do something else besides or instead.
  SELECT d.ref, d.source, 'pg_class'::regclass, r.ev_class,
         CASE WHEN c.relkind = 'm' AND d.ref = 'pg_class'::regclass THEN 1 ELSE 0 END,
         CASE WHEN c.relkind = 'm' THEN 32
              WHEN r.ev_type <> '1' THEN CASE r.ev_type WHEN '2' THEN 4 WHEN '3' THEN 2 ELSE 8 END
              WHEN d.ref = 'pg_class'::regclass THEN -1 ELSE 15 END,
         CASE WHEN r.ev_type <> '1' THEN 'rule ' || (pg_identify_object('pg_rewrite'::regclass, r.oid, 0)).identity END
    FROM dependent d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
   WHERE r.ev_enabled <> 'D' AND (d.ref <> 'pg_class'::regclass OR r.ev_class <> d.source)
UNION ALL
  SELECT d.ref, d.source, 'pg_class'::regclass, t.tgrelid, 0,
         (t.tgtype >> 2 & 1) * 2 + (t.tgtype >> 4 & 1) * 4 + (t.tgtype >> 3 & 1) * 8 + (t.tgtype >> 5 & 1) * 16,
         'trigger ' || (pg_identify_object('pg_trigger'::regclass, t.oid, 0)).identity
    FROM dependent d JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
   WHERE t.tgenabled <> 'D' AND d.ref <> 'pg_class'::regclass
UNION ALL
  SELECT d.ref, d.source, 'pg_class'::regclass, a.adrelid, 0, CASE b.attgenerated WHEN '' THEN 2 WHEN 's' THEN 6 ELSE 15 END,
         'default ' || (pg_identify_object('pg_attrdef'::regclass, a.oid, 0)).identity
    FROM dependent d JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    JOIN pg_attribute b ON b.attrelid = a.adrelid AND b.attnum = a.adnum
   WHERE d.ref <> 'pg_class'::regclass
UNION ALL
  SELECT d.ref, d.source, CASE WHEN c.contypid = 0 THEN 'pg_class'::regclass ELSE 'pg_type'::regclass END,
         CASE WHEN c.contypid = 0 THEN c.conrelid ELSE c.contypid END, 0, 6,
         'constraint ' || (pg_identify_object('pg_constraint'::regclass, c.oid, 0)).identity
    FROM dependent d JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
   WHERE d.ref NOT IN ('pg_class'::regclass, 'pg_type'::regclass) OR (d.ref = 'pg_type'::regclass AND c.contypid NOT IN (0, d.source))
UNION ALL
  SELECT d.ref, d.source, 'pg_class'::regclass, p.polrelid, CASE WHEN d.ref = 'pg_class'::regclass THEN 1 ELSE 0 END,
         CASE p.polcmd WHEN 'a' THEN 2 WHEN 'w' THEN 4 WHEN 'd' THEN 8 WHEN 'r' THEN 13 ELSE 15 END,
         'policy ' || (pg_identify_object('pg_policy'::regclass, p.oid, 0)).identity
    FROM dependent d JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    JOIN pg_class c ON c.oid = p.polrelid AND c.relrowsecurity
   WHERE d.ref <> 'pg_class'::regclass OR p.polrelid <> d.source
UNION ALL
  -- Indexes, partition keys, columns of a domain, composite types.
  SELECT d.ref, d.source, CASE WHEN c.relkind = 'c' THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END,
         CASE WHEN c.relkind = 'c' THEN c.reltype ELSE coalesce(i.indrelid, c.oid) END, 0, CASE WHEN i.indrelid IS NULL THEN 6 ELSE 38 END,
         CASE WHEN i.indrelid IS NOT NULL THEN 'index ' || (pg_identify_object('pg_class'::regclass, c.oid, 0)).identity END
    FROM dependent d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid LEFT JOIN pg_index i ON i.indexrelid = c.oid
   WHERE d.ref <> 'pg_class'::regclass AND c.relkind IN ('i', 'I', 'r', 'p', 'f', 'c')
UNION ALL
  SELECT d.ref, d.source, 'pg_class'::regclass, s.stxrelid, 0, 32,
         'statistics ' || (pg_identify_object('pg_statistic_ext'::regclass, s.oid, 0)).identity
    FROM dependent d JOIN pg_statistic_ext s ON d.classid = 'pg_statistic_ext'::regclass AND s.oid = d.objid
   WHERE d.ref <> 'pg_class'::regclass
UNION ALL
  -- Functions by their defaults, arguments and parts; one with a parsed body over a relation is read as a body.
  SELECT d.ref, d.source, d.classid, d.objid, 0, 0, NULL
    FROM dependent d
   WHERE (d.classid = 'pg_proc'::regclass AND d.ref <> 'pg_class'::regclass)
      OR (d.classid IN ('pg_operator'::regclass, 'pg_event_trigger'::regclass, 'pg_cast'::regclass) AND d.ref = 'pg_proc'::regclass)
      OR (d.classid = 'pg_type'::regclass AND d.ref <> 'pg_class'::regclass)
      OR d.classid IN ('pg_opclass'::regclass, 'pg_opfamily'::regclass)
UNION ALL
  SELECT d.ref, d.source, 'pg_opfamily'::regclass, p.amprocfamily, 0, 0, NULL
    FROM dependent d JOIN pg_amproc p ON d.classid = 'pg_amproc'::regclass AND p.oid = d.objid
UNION ALL
  SELECT d.ref, d.source, 'pg_opfamily'::regclass, p.amopfamily, 0, 0, NULL
    FROM dependent d JOIN pg_amop p ON d.classid = 'pg_amop'::regclass AND p.oid = d.objid
UNION ALL
  -- What no dependency says: parents of partitions and of heirs, foreign keys that cascade.
  SELECT a.class, a.obj, 'pg_class'::regclass, h.inhparent, 0, -1, NULL
    FROM asked a JOIN pg_inherits h ON h.inhrelid = a.obj WHERE a.class = 'pg_class'::regclass
UNION ALL
  SELECT a.class, a.obj, 'pg_class'::regclass, k.confrelid, e.needs, e.gives,
         'constraint ' || (pg_identify_object('pg_constraint'::regclass, k.oid, 0)).identity
    FROM asked a JOIN pg_constraint k ON k.conrelid = a.obj AND k.contype = 'f'
    CROSS JOIN LATERAL (VALUES (CASE k.confdeltype WHEN 'c' THEN 8 WHEN 'n' THEN 4 WHEN 'd' THEN 4 END, 8),
                               (CASE WHEN k.confupdtype IN ('c', 'n', 'd') THEN 4 END, 4)) AS e (needs, gives)
   WHERE a.class = 'pg_class'::regclass AND e.needs IS NOT NULL
)
SELECT f.ref::oid AS ref, f.source, f.class::oid AS class, f.obj, f.needs, f.gives, f.through, coalesce(n.nspname, '') AS schema,
       coalesce(p.proname, c.relname, o.oprname, t.typname, e.evtname, '') AS name,
       CASE WHEN p.oid IS NOT NULL THEN 'function' WHEN c.oid IS NOT NULL THEN 'relation' WHEN o.oid IS NOT NULL THEN 'operator'
            WHEN t.oid IS NOT NULL THEN 'type' WHEN e.oid IS NOT NULL THEN 'event' ELSE 'other' END AS kind,
       replace(CASE WHEN p.oid IS NOT NULL THEN '' ELSE i.type || ' ' END || i.identity, 'pg_catalog.', '') AS identity,
       coalesce(p.least, 0) AS least, coalesce(p.most, -1) AS most, coalesce(p.takes_row, false) AS takes_row, e.evttags AS commands
  FROM found f
  CROSS JOIN LATERAL pg_identify_object(f.class, f.obj, 0) AS i
  LEFT JOIN LATERAL (SELECT p.oid, p.proname, p.pronamespace, {_FUNCTION} FROM pg_proc p
                      WHERE f.class = 'pg_proc'::regclass AND p.oid = f.obj) AS p ON true
  LEFT JOIN pg_class c ON f.class = 'pg_class'::regclass AND c.oid = f.obj
  LEFT JOIN pg_operator o ON f.class = 'pg_operator'::regclass AND o.oid = f.obj
  LEFT JOIN pg_cast k ON f.class = 'pg_cast'::regclass AND k.oid = f.obj
  -- A cast is seen by the type it makes, where that is nobody else's: `::text` stands everywhere.
  LEFT JOIN pg_type t ON (f.class = 'pg_type'::regclass AND t.oid = f.obj) OR (t.oid = k.casttarget AND t.oid >= 16384)
  LEFT JOIN pg_event_trigger e ON f.class = 'pg_event_trigger'::regclass AND e.oid = f.obj AND e.evtenabled <> 'D' AND e.evtevent <> 'login'
  LEFT JOIN pg_namespace n ON n.oid = coalesce(p.pronamespace, c.relnamespace, o.oprnamespace, t.typnamespace)
 WHERE i.identity IS NOT NULL AND coalesce(n.nspname, '') !~ '^pg_temp_' AND NOT (coalesce(n.nspname, '') = ANY ($3::text[]))
   AND NOT EXISTS (SELECT FROM unnest($4::text[], $5::text[]) AS r (schema, name) WHERE r.schema = n.nspname AND r.name = c.relname)
"""  # noqa: S608 - constant

BODIES = f"""
SELECT 'pg_proc'::regclass::oid AS class, p.oid AS obj, n.nspname AS schema, p.proname AS name,
       replace((pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity, 'pg_catalog.', '') AS identity,
       l.lanname AS language, pg_get_functiondef(p.oid) AS definition,
       {_FUNCTION}
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE p.oid >= 16384 AND p.prokind <> 'a' AND l.lanname NOT IN ('internal', 'c')
   AND n.nspname !~ '^pg_temp_' AND NOT (n.nspname = ANY ($2::text[])) AND NOT (p.oid = ANY ($3::oid[]))
   AND CASE WHEN p.prosqlbody IS NULL THEN lower(p.prosrc) ELSE lower(pg_get_function_sqlbody(p.oid)) END ~ $1
 LIMIT $4
"""  # noqa: S608 - constant


def regular_expression(words: Iterable[str]) -> str:
    """What finds one of the words in a body: as a whole word where it is one."""
    return "|".join(rf"\m{word}\M" if re.fullmatch(r"\w+", word) else re.sub(r"([^\w\s])", r"\\\1", word) for word in words)
