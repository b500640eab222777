"""Finds what others have attached to the table of secrets: code that PostgreSQL runs whenever a row is read or written.

May use an asyncpg connection. Reads the catalog alone, never the table, and changes nothing.
"""

from __future__ import annotations

from typing import Any

# The original module's own default of id is not third-party code: a UUID function with one of three names in public.
# One of that name in another schema is anybody's.
# Of expressions only those count that reach past PostgreSQL itself: what they use of its own has no entry in pg_depend.
# C functions of an extension are taken for PostgreSQL's own. `name` is what `install --accept` is given.
_ATTACHED = """
WITH RECURSIVE t (oid) AS (
    SELECT pg_catalog.to_regclass('secrets_schema.secrets_table')::pg_catalog.oid
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent OPERATOR(pg_catalog.=) t.oid
), parts (kind, name, classid, objid, always) AS (
    SELECT 'check', k.conname, 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, false
      FROM pg_catalog.pg_constraint k JOIN t ON k.conrelid OPERATOR(pg_catalog.=) t.oid
     WHERE k.contype OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"
    UNION ALL
    SELECT CASE WHEN a.attgenerated OPERATOR(pg_catalog.=) ''::pg_catalog."char" THEN 'default'
        ELSE 'generated column' END,
           a.attname, 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, false
      FROM pg_catalog.pg_attrdef d JOIN t ON d.adrelid OPERATOR(pg_catalog.=) t.oid
      JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid
          AND a.attnum OPERATOR(pg_catalog.=) d.adnum
     WHERE a.attname OPERATOR(pg_catalog.<>) 'id'::pg_catalog.name
        OR pg_catalog.pg_get_expr(d.adbin,
        d.adrelid) OPERATOR(pg_catalog.!~) '^(public[.])?(uuidv7|uuid_generate_v4|gen_random_uuid)[(][)]$'
    UNION ALL
    SELECT 'index', c.relname, 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, false
      FROM pg_catalog.pg_index i JOIN t ON i.indrelid OPERATOR(pg_catalog.=) t.oid
      JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
    UNION ALL
    SELECT 'statistics', s.stxname, 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, false
      FROM pg_catalog.pg_statistic_ext s JOIN t ON s.stxrelid OPERATOR(pg_catalog.=) t.oid
    UNION ALL
    SELECT 'column', a.attname, 'pg_catalog.pg_type'::pg_catalog.regclass, a.atttypid,
           y.typnamespace OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid
      FROM pg_catalog.pg_attribute a JOIN t ON a.attrelid OPERATOR(pg_catalog.=) t.oid
      JOIN pg_catalog.pg_type y ON y.oid OPERATOR(pg_catalog.=) a.atttypid
     WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'rule', r.rulename, 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid, true
      FROM pg_catalog.pg_rewrite r JOIN t ON r.ev_class OPERATOR(pg_catalog.=) t.oid
     WHERE r.rulename OPERATOR(pg_catalog.<>) '_RETURN'::pg_catalog.name
    UNION ALL
    SELECT 'policy', p.polname, 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, true
      FROM pg_catalog.pg_policy p JOIN t ON p.polrelid OPERATOR(pg_catalog.=) t.oid
    UNION ALL
    SELECT 'trigger', g.tgname, 'pg_catalog.pg_trigger'::pg_catalog.regclass, g.oid,
           g.tgfoid OPERATOR(pg_catalog.<>)
               coalesce(pg_catalog.to_regprocedure('secrets_schema.tg_hash_secrets()')::pg_catalog.oid,
                   0::pg_catalog.oid)
      FROM pg_catalog.pg_trigger g JOIN t ON g.tgrelid OPERATOR(pg_catalog.=) t.oid WHERE NOT g.tgisinternal
    UNION ALL
    SELECT 'child table', i.inhrelid::pg_catalog.regclass::pg_catalog.text, 'pg_catalog.pg_class'::pg_catalog.regclass,
        i.inhrelid, true
      FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent OPERATOR(pg_catalog.=) t.oid
    UNION ALL
    SELECT 'foreign key', pg_catalog.concat(k.conrelid::pg_catalog.regclass, '.', k.conname),
        'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid,
           k.conrelid OPERATOR(pg_catalog.<>)
               coalesce(pg_catalog.to_regclass('secretproxy.replaced_password')::pg_catalog.oid, 0::pg_catalog.oid)
      FROM pg_catalog.pg_constraint k JOIN t ON k.confrelid OPERATOR(pg_catalog.=) t.oid
     WHERE k.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"
         AND k.conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
)
SELECT pg_catalog.concat(p.kind, ' ', p.name) AS name
  FROM parts p
 WHERE CASE WHEN p.kind OPERATOR(pg_catalog.=) ANY (ARRAY['column', 'rule', 'policy', 'trigger', 'child table',
     'foreign key']::pg_catalog.text[])
            THEN p.always ELSE EXISTS (
        SELECT FROM pg_catalog.pg_depend d
          LEFT JOIN pg_catalog.pg_proc f ON d.refclassid
              OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
                                        AND f.oid OPERATOR(pg_catalog.=) d.refobjid
          LEFT JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) f.prolang
         WHERE d.classid OPERATOR(pg_catalog.=) p.classid::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) p.objid
           AND d.refclassid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_operator',
           'pg_catalog.pg_type',
                   'pg_catalog.pg_opclass', 'pg_catalog.pg_opfamily',
                   'pg_catalog.pg_cast']::pg_catalog.regclass[]::pg_catalog.oid[])
           AND d.refobjid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
           AND NOT (l.lanname IS NOT NULL AND l.lanname OPERATOR(pg_catalog.=) 'c'::pg_catalog.name AND EXISTS (
                SELECT FROM pg_catalog.pg_depend e
                 WHERE e.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
                   AND e.objid OPERATOR(pg_catalog.=) f.oid
                   AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"))) END
 ORDER BY 1
"""
_ACCEPTED = "SELECT a.object FROM secretproxy.accepted a"
ALL = "all"


async def attached(connection: Any) -> list[str]:
    """Lists what others have attached to the table, as `--accept` takes it: a kind and a name each, sorted."""
    return [row["name"] for row in await connection.fetch(_ATTACHED)]


async def accepted(connection: Any) -> set[str]:
    """Lists what install was told to accept; nothing if it never was."""
    if await connection.fetchval("SELECT pg_catalog.to_regclass('secretproxy.accepted')") is None:
        return set()
    return {row["object"] for row in await connection.fetch(_ACCEPTED)}


async def unaccepted(connection: Any) -> list[str]:
    """Lists what is attached and was not accepted."""
    known = await accepted(connection)
    return [name for name in await attached(connection) if name not in known]


async def accept(connection: Any, names: list[str]) -> None:
    """Records that these were accepted."""
    for name in names:
        await connection.execute("INSERT INTO secretproxy.accepted (object) VALUES ($1) ON CONFLICT DO NOTHING", name)
