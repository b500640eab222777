"""Compares the tables of the log with the package's description, so that readers can trust what they are shown.

Compared with what stands here, not with what the database says of itself: its owner can change that. May import
asyncpg; reads the catalog only.
"""

from __future__ import annotations

from typing import Any

from secretproxy.audit.columns import STORED, TYPES

# By the name: what it fires for, as pg_trigger.tgtype writes it: BEFORE UPDATE OR DELETE of each row, BEFORE TRUNCATE.
_TRIGGERS = {"append_only": 27, "append_only_truncate": 34}
# The body of secretproxy.access_log_is_append_only(), as the package's script has it.
_GUARD = """
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501',
        MESSAGE = 'secretproxy.access_log is append-only: ' OPERATOR(pg_catalog.||) pg_catalog.lower(TG_OP) OPERATOR(pg_catalog.||) ' is not allowed',
        HINT = 'Old rows go away with their partition.';
END
"""
# The first four are an older version's; they are done without.
_CHECKS = {
    "access_log_event_check", "access_log_operation_check", "access_log_protocol_check", "access_log_outcome_check",
        "checkpoints_kind_check",
}  # fmt: skip
_KINDS = {
    "v": "a view",
    "f": "a foreign table",
    "m": "a materialized view",
    "p": "partitioned",
    "r": "an ordinary table",
}
_CHECKPOINT_COLUMNS = {
    "instance": "uuid", "seq": "int8", "row_hash": "bytea", "at": "timestamptz", "signature": "bytea", "kind": "text",
}  # fmt: skip
_RELATIONS = """
WITH RECURSIVE tables (oid, top, level) AS (
    SELECT c.oid, c.relname::pg_catalog.text, 0
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
     WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name
       AND c.relname OPERATOR(pg_catalog.=) ANY (ARRAY['access_log', 'checkpoints']::pg_catalog.name[])
    UNION ALL
    SELECT i.inhrelid, t.top, t.level OPERATOR(pg_catalog.+) 1
      FROM tables AS t JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) t.oid
)
SELECT t.oid, t.top, t.level, c.oid::pg_catalog.regclass::pg_catalog.text AS name, c.relkind::pg_catalog.text AS kind,
       c.relispartition AS partition, c.relpersistence::pg_catalog.text AS persistence, c.relrowsecurity AS secured
  FROM tables AS t JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.oid ORDER BY t.level, name
"""
_RULES = """
SELECT r.ev_class AS oid, r.rulename::pg_catalog.text AS name FROM pg_catalog.pg_rewrite AS r
 WHERE r.ev_class OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""
_POLICIES = """
SELECT p.polrelid AS oid, p.polname::pg_catalog.text AS name FROM pg_catalog.pg_policy AS p
 WHERE p.polrelid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""
# A partition's trigger that came from its parent's is an internal one in PostgreSQL 14.
_ALL_TRIGGERS = """
SELECT t.tgrelid AS oid, t.tgname::pg_catalog.text AS name, t.tgenabled::pg_catalog.text AS enabled,
    t.tgtype::pg_catalog.int4 AS type,
       t.tgqual IS NOT NULL OR pg_catalog.cardinality(t.tgattr::pg_catalog.int2[]) OPERATOR(pg_catalog.>) 0 AS limited,
       n.nspname::pg_catalog.text AS schema, p.proname::pg_catalog.text AS function, p.prosrc AS body
  FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
 WHERE (NOT t.tgisinternal OR t.tgparentid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid)
   AND t.tgrelid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""
_COLUMNS = """
SELECT a.attrelid AS oid, a.attname::pg_catalog.text AS name, y.typname::pg_catalog.text AS type,
    n.nspname::pg_catalog.text AS schema,
       a.attgenerated::pg_catalog.text AS generated
  FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS y ON y.oid OPERATOR(pg_catalog.=) a.atttypid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) y.typnamespace
 WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped
   AND a.attrelid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""
_CONSTRAINTS = """
SELECT k.conrelid AS oid, k.conname::pg_catalog.text AS name FROM pg_catalog.pg_constraint AS k
 WHERE k.contype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'f', 'x']::pg_catalog."char"[])
   AND k.conrelid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""
# Rows that may be there already are added ON CONFLICT DO NOTHING: an index that calls others the same drops
# them unheard.
_UNIQUE = """
SELECT i.indrelid AS oid, c.relname::pg_catalog.text AS name
  FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
 WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
   AND NOT (i.indnkeyatts OPERATOR(pg_catalog.=) 3::pg_catalog.int2 AND i.indexprs IS NULL AND i.indpred IS NULL AND (
       SELECT pg_catalog.array_agg(a.attname::pg_catalog.text
           ORDER BY a.attname::pg_catalog.text COLLATE pg_catalog."C")
         FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid OPERATOR(pg_catalog.=) i.indrelid
            AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[]))
       OPERATOR(pg_catalog.=) ARRAY['at', 'instance', 'seq']::pg_catalog.text[])
"""
# Functions that are not PostgreSQL's own, called by an index, a default or a constraint.
_CODE = """
SELECT x.oid, p.oid::pg_catalog.regprocedure::pg_catalog.text AS name
  FROM (SELECT i.indrelid AS oid, 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS class,
      i.indexrelid AS object
          FROM pg_catalog.pg_index AS i
        UNION ALL
        SELECT d.adrelid, 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid, d.oid
            FROM pg_catalog.pg_attrdef AS d
        UNION ALL
        SELECT k.conrelid, 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid, k.oid
            FROM pg_catalog.pg_constraint AS k) AS x
  JOIN pg_catalog.pg_depend AS e ON e.classid OPERATOR(pg_catalog.=) x.class AND e.objid OPERATOR(pg_catalog.=) x.object
   AND e.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
  JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) e.refobjid
 WHERE x.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
"""


async def altered(connection: Any) -> list[str]:
    """Lists what in the log's tables can hide rows, change them on their way in, or run somebody's code.

    The list is empty if the tables are as they should be. Raises asyncpg's errors.
    """
    tables: Tables = {row["oid"]: row for row in await connection.fetch(_RELATIONS)}
    oids = list(tables)

    def named(rows: list[Any], text: str) -> list[str]:
        return [text.format(table=tables[row["oid"]]["name"], name=row["name"]) for row in rows]

    found = _relations(tables)
    found += named(await connection.fetch(_POLICIES, oids), "{table} has the policy {name}")
    rules = [row for row in await connection.fetch(_RULES, oids) if tables[row["oid"]]["kind"] not in ("v", "m")]
    found += named(rules, "{table} has the rule {name}")
    found += _triggers(tables, await connection.fetch(_ALL_TRIGGERS, oids))
    found += _columns(tables, await connection.fetch(_COLUMNS, oids))
    constraints = [row for row in await connection.fetch(_CONSTRAINTS, oids) if row["name"] not in _CHECKS]
    found += named(constraints, "{table} has the constraint {name}, which is not the package's")
    found += named(
        await connection.fetch(_UNIQUE, oids), "{table} has the unique index {name}, which can keep rows out"
    )
    found += named(await connection.fetch(_CODE, oids), "{table} runs {name} in an index, a default or a constraint")
    return found


Tables = dict[int, Any]


def _relations(tables: Tables) -> list[str]:
    """Names tables that are missing, of another kind, no partitions, not logged, or under row level security."""
    found: list[str] = []
    for top in ("access_log", "checkpoints"):
        if not any(row["top"] == top and row["level"] == 0 for row in tables.values()):
            found.append(f"secretproxy.{top} is not there")
    for row in tables.values():
        name = row["name"]
        expected = "p" if row["top"] == "access_log" and row["level"] == 0 else "r"
        if row["kind"] != expected:
            found.append(f"{name} is {_KINDS.get(row['kind'], 'something else')}, not {_KINDS[expected]}")
        if row["level"] and not (row["partition"] and row["top"] == "access_log"):
            found.append(f"{name} is a child of secretproxy.{row['top']} and no partition: its rows show there")
        if row["persistence"] != "p":
            found.append(f"{name} is not logged: a crash of the server empties it")
        if row["secured"]:
            found.append(f"{name} has row level security, which can hide rows")
    return found


def _triggers(tables: Tables, rows: list[Any]) -> list[str]:
    """Names triggers that are not the package's, do not do what they must, or are missing."""
    found: list[str] = []
    guarded: dict[int, set[str]] = {}
    for row in rows:
        where = tables[row["oid"]]["name"]
        ours = row["name"] in _TRIGGERS and (row["schema"], row["function"]) == (
            "secretproxy",
            "access_log_is_append_only",
        )
        if not ours:
            found.append(f"{where} has the trigger {row['name']}, which is not the package's")
        elif row["enabled"] not in ("O", "A"):
            found.append(f"the trigger {row['name']} of {where} is switched off")
        elif row["type"] != _TRIGGERS[row["name"]] or row["limited"]:
            found.append(f"the trigger {row['name']} of {where} does not fire for everything that it must")
        elif row["body"] != _GUARD:
            found.append(
                "secretproxy.access_log_is_append_only() is not the package's, or an older version's: secretproxy "
                "install --again"
            )
        else:
            guarded.setdefault(row["oid"], set()).add(row["name"])
    for oid, row in tables.items():
        for trigger in sorted(_TRIGGERS.keys() - guarded.get(oid, set())):
            if row["kind"] in ("r", "p") and not any(f"{trigger} of {row['name']}" in text for text in found):
                found.append(f"{row['name']} has no trigger {trigger}")
    return found


def _columns(tables: Tables, rows: list[Any]) -> list[str]:
    """Names columns that are missing, of another type, generated, or not the package's."""
    columns: dict[int, dict[str, str]] = {}
    for row in rows:
        known = row["type"] if row["schema"] == "pg_catalog" else f"{row['schema']}.{row['type']}"
        columns.setdefault(row["oid"], {})[row["name"]] = known + (
            " generated" if row["generated"] not in ("", "\0") else ""
        )
    log = {name: TYPES[name] for name in STORED}
    found: list[str] = []
    for oid, row in tables.items():
        wanted = log if row["top"] == "access_log" else _CHECKPOINT_COLUMNS
        for name in sorted(wanted.keys() | columns.get(oid, {}).keys()):
            kind, is_kind = wanted.get(name), columns.get(oid, {}).get(name)
            kind = f"_{kind.removesuffix('[]')}" if kind and kind.endswith("[]") else kind
            if kind != is_kind:
                found.append(
                    f"the column {name} of {row['name']} is {is_kind or 'not there'}, not {kind or 'the packages'}"
                )
    return found
