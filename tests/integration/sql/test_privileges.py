"""Checks who may do what: every operation on every object of ours is tried by every kind of login, and compared with a
kept table.

The table is privileges.txt. After a wanted change, TEST_WRITE_PRIVILEGES=1 writes it anew; read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.integration.sql.conftest import Database

KEPT = Path(__file__).with_name("privileges.txt")
SCHEMAS = ("encrypted_secrets", "secrets_schema", "secretproxy", "jwt_public")
LOGINS = {
    "try_authenticated": "authenticated",
    "try_writer": "secretproxy_writer",
    "try_auditor": "secretproxy_auditor",
    "try_nobody": None,
}
# The roles that own what is ours: nobody logs in as one, but their functions run as them.
OWNERS = ("secretproxy_owner", "secretproxy_api", "secretproxy_keys", "secretproxy_tables")
RELATIONS = """
SELECT c.oid::regclass::text, c.relkind, a.attname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
                      ORDER BY attnum LIMIT 1) a ON true
 WHERE (n.nspname = ANY (%s) OR c.relname = 'secret_access_log') AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
   AND (NOT c.relispartition OR c.relname = 'access_log_default') ORDER BY 1
"""
FUNCTIONS = """
SELECT p.oid::regprocedure::text, p.prorettype = 'trigger'::regtype,
       (SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY i) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u(t, i)),
       p.oid::regproc::text
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY (%s) ORDER BY 1
"""
ROWS = {
    "select": "SELECT FROM {0} LIMIT 0",
    "insert": "INSERT INTO {0} DEFAULT VALUES",
    "update": 'UPDATE {0} SET "{1}" = "{1}"',
    "delete": "DELETE FROM {0}",
    "truncate": "TRUNCATE {0}",
    # Nobody here may make a permanent table, and no other may reference one: asked, not tried.
    "references": "DO $$ BEGIN IF NOT has_table_privilege('{0}', 'REFERENCES') THEN RAISE insufficient_privilege; END IF; END $$",
    "reindex": "REINDEX TABLE {0}",
    "lock": "LOCK TABLE {0} IN ACCESS EXCLUSIVE MODE",
    "alter": "ALTER TABLE {0} ADD COLUMN tried int",
    "drop": "DROP TABLE {0}",
    "trigger": "CREATE TRIGGER tried BEFORE INSERT ON {0} EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
}
SEQUENCES = {
    "select": "SELECT last_value FROM {0}", "nextval": "SELECT nextval('{0}')", "currval": "SELECT currval('{0}')",
    "setval": "SELECT setval('{0}', 1)", "alter": "ALTER SEQUENCE {0} RESTART", "drop": "DROP SEQUENCE {0}",
}  # fmt: skip
VIEWS = {
    name: text.replace("TABLE", "VIEW")
    for name, text in ROWS.items()
    if name in ("select", "insert", "update", "delete", "drop")
} | {"alter": "ALTER VIEW {0} RESET (security_barrier)", "replace": "CREATE OR REPLACE VIEW {0} AS SELECT 1"}


def allowed(sql: psycopg.Connection[tuple[object, ...]], statement: str) -> bool:
    """Tells whether PostgreSQL gets past the question of privileges."""
    sql.execute("BEGIN")
    try:
        sql.execute(statement)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState):
        # Of the latter kind: rows cannot be written through these views, whoever tries.
        return False
    except psycopg.Error:
        return True  # its own reasons come after the privileges
    finally:
        sql.execute("ROLLBACK")
    return True


@pytest.fixture
def logins(fresh: Database) -> Iterator[Database]:
    with fresh.connect() as admin:
        for login, group in LOGINS.items():
            admin.execute(f"CREATE ROLE {login} LOGIN" + (f" IN ROLE {group}" if group else ""))
    yield fresh
    with fresh.connect() as admin:
        for login in LOGINS:
            admin.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


def found(database: Database) -> str:
    with database.connect() as admin:
        relations = admin.execute(RELATIONS, (list(SCHEMAS),)).fetchall()
        functions = admin.execute(FUNCTIONS, (list(SCHEMAS),)).fetchall()
    lines: dict[tuple[str, str], list[str]] = {}
    for login in (*LOGINS, *OWNERS):
        who = login.removeprefix("try_")
        with database.connect(login if login in LOGINS else "postgres") as sql:
            if login in OWNERS:
                sql.execute(f"SET ROLE {login}")
            sql.execute("SET client_min_messages = error")
            for schema in SCHEMAS:
                for name, statement in {
                    "usage": f"SELECT '{schema}.no_such_table'::regclass", "create": f"CREATE TABLE {schema}.tried ()",
                    "alter": f"ALTER SCHEMA {schema} RENAME TO tried", "drop": f"DROP SCHEMA {schema} CASCADE",
                }.items():  # fmt: skip
                    lines.setdefault((f"schema {schema}", name), [])
                    if allowed(sql, statement):
                        lines[f"schema {schema}", name].append(who)
            for relation, kind, column in relations:
                tries = SEQUENCES if kind == "S" else VIEWS if kind == "v" else ROWS
                for name, statement in tries.items():
                    lines.setdefault(
                        (f"{'sequence' if kind == 'S' else 'view' if kind == 'v' else 'table'} {relation}", name), []
                    )
                    if allowed(sql, statement.format(relation, column)):
                        lines[
                            f"{'sequence' if kind == 'S' else 'view' if kind == 'v' else 'table'} {relation}", name
                        ].append(who)
            for signature, trigger, arguments, name in functions:
                key = (f"function {signature}", "define trigger" if trigger else "execute")
                lines.setdefault(key, [])
                statement = (
                    f"CREATE TEMP TABLE tried (); CREATE TRIGGER t BEFORE INSERT ON tried EXECUTE FUNCTION {name}()"
                    if trigger else f"SELECT {name}({arguments or ''})"
                )  # fmt: skip
                if allowed(sql, statement):
                    lines[key].append(who)
                key = (f"function {signature}", "replace, alter, drop")
                lines.setdefault(key, [])
                if allowed(sql, f"ALTER FUNCTION {signature} COST 2") or allowed(sql, f"DROP FUNCTION {signature}"):
                    lines[key].append(who)
    return "".join(
        f"{thing}: {operation}: {', '.join(who) or '-'}\n" for (thing, operation), who in sorted(lines.items())
    )


def test_privileges_are_those_of_the_kept_table(logins: Database) -> None:
    table = found(logins)
    if os.environ.get("TEST_WRITE_PRIVILEGES"):
        KEPT.write_text(table)
    assert table.splitlines() == KEPT.read_text().splitlines()


def test_nobody_changes_rows_of_the_log_not_even_the_owner(logins: Database) -> None:
    with logins.connect() as admin:
        admin.execute("SET ROLE secretproxy_owner")
        admin.execute("INSERT INTO secretproxy.access_log (event, function) VALUES ('direct', 'x')")
        for statement in (
            "UPDATE secretproxy.access_log SET event = 'call'",
            "DELETE FROM secretproxy.access_log",
            "TRUNCATE secretproxy.access_log",
        ):
            with pytest.raises(psycopg.Error) as refused:
                admin.execute(statement)
            assert refused.value.sqlstate == "42501"
