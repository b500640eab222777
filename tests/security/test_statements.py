"""Checks that no statement that the package can send holds a name that PostgreSQL would look up through search_path,
and every own connection is pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pglast
import pytest

from secretproxy.connections import pinned
from tests.security.statements import HOLE, SRC, Text, in_python, in_statement, texts

# pgcrypto's own functions, wherever it lives. These stand in bodies that are stored parsed, bound by OID when they are
# made, under a search_path that names pgcrypto's schema and is pinned for these statements alone. Each has the very
# types that pgcrypto's function takes, which no overload next to it can match better.
BOUND_WHEN_MADE = {
    "sql/deploy/crypto.sql": {
        "pgp_sym_encrypt_bytea", "pgp_sym_decrypt_bytea", "pgp_sym_encrypt", "pgp_sym_decrypt", "crypt", "gen_salt", "gen_random_bytes",
        "hmac",
    },
}  # fmt: skip
SQL = sorted(path for path in (SRC / "sql").rglob("*.sql"))
PYTHON = sorted(SRC.rglob("*.py"))
# A client's own statements, and texts that begin as SQL does.
NOT_OURS = {"demo/tour.py"}


def named(path: Path) -> str:
    return str(path.relative_to(SRC))


def left(path: Path) -> list[str]:
    """Gives what can be resolved elsewhere, as file:line: name (kind)."""
    found = []
    known = BOUND_WHEN_MADE.get(named(path), set())
    if path.suffix == ".sql":
        text = re.sub(r"^\\.*$", "", path.read_text(), flags=re.MULTILINE)
        found = [(text.encode()[: one.at].count(b"\n") + 1, one) for one in in_statement(text)]
    else:
        found = [
            (text.line + text.text.encode()[: one.at].count(b"\n"), one)
            for text in texts(path)
            for one in in_python(text)
        ]
    return [
        f"{named(path)}:{line}: {one.name} ({one.kind})"
        for line, one in found
        if one.kind != "function" or one.name not in known
    ]


@pytest.mark.parametrize("path", [*SQL, *PYTHON], ids=named)
def test_no_name_can_be_resolved_elsewhere(path: Path) -> None:
    if named(path) in NOT_OURS:
        pytest.skip("statements of the demonstration's client")
    assert left(path) == []


def test_no_exception_is_listed_that_nothing_needs() -> None:
    for name, functions in BOUND_WHEN_MADE.items():
        assert functions == {one.name for one in in_statement((SRC / name).read_text())}


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT 1 = 1", "="), ("SELECT a.b || 'x' FROM c.d a", "||"), ("SELECT now()", "now"), ("SELECT 1::oid", "oid"), ("SELECT '1'::json", "json"),
        ("SELECT a.b IN (1, 2) FROM c.d a", "IN"), ("SELECT a.b IN (SELECT 1) FROM c.d a", "IN (SELECT"), ("SELECT * FROM pg_class", "pg_class"),
        ("SELECT 1 BETWEEN 0 AND 2", "BETWEEN"), ("SELECT 'a' LIKE 'b'", "LIKE"), ("SELECT 'a' ILIKE 'b'", "ILIKE"), ("SELECT nullif(1, 2)", "NULLIF"),
        ("SELECT CASE 1 WHEN 2 THEN 3 END", "CASE with an operand"), ("SELECT 1 IS DISTINCT FROM 2", "IS DISTINCT FROM"),
        ("SELECT * FROM a.b JOIN c.d USING (e)", "USING"), ("SELECT * FROM a.b NATURAL JOIN c.d", "USING"), ("SELECT -a.b FROM c.d a", "-"),
        ("SELECT 1 = ANY (ARRAY[1])", "="), ("SELECT 1 = ALL (SELECT 1)", "="), ("SELECT (1, 2) = (1, 2)", "="), ("SELECT 'x' COLLATE \"C\"", "C"),
        ("SELECT 'pg_class'::pg_catalog.regclass", "'pg_class'"), ("SELECT pg_catalog.to_regclass('t')", "'t'"), ("SELECT 'a' SIMILAR TO 'b'", "SIMILAR TO"),
        ("SELECT 1 FROM a.b ORDER BY 1 USING <", "<"), ("INSERT INTO t VALUES (1)", "t"), ("UPDATE a.b SET c = d(1)", "d"), ("DELETE FROM a.b WHERE c > 1", ">"),
        ("CREATE TABLE a.b (c uuid)", "uuid"), ("CREATE TABLE a.b (c int CHECK (c > 1))", ">"), ("CREATE TABLE a.b (c int DEFAULT f())", "f"),
        ("CREATE VIEW v AS SELECT 1", "v"), ("CREATE INDEX ON a.b (f(c))", "f"), ("CREATE INDEX ON a.b (c text_pattern_ops)", "text_pattern_ops"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$", "f"), ("CREATE TRIGGER t BEFORE INSERT ON a.b EXECUTE FUNCTION f()", "f"),
        ("CREATE FUNCTION a.f() RETURNS int LANGUAGE sql AS $$ SELECT now() $$", "now"), ("CREATE FUNCTION a.f(text) RETURNS int LANGUAGE sql RETURN 1", "text"),
        ("CREATE FUNCTION a.f() RETURNS int LANGUAGE sql RETURN 1 + 1", "+"), ("DO $$ BEGIN PERFORM now(); END $$", "now"),
        ("DO $$ DECLARE a text; BEGIN NULL; END $$", "text"), ("DO $$ DECLARE a int; BEGIN a := a + 1; END $$", "+"),
        ("DO $$ BEGIN IF 1 = 1 THEN NULL; END IF; END $$", "="), ("DO $$ BEGIN EXECUTE 'SELECT now()'; END $$", "now"),
        ("DO $$ BEGIN EXECUTE pg_catalog.format('ALTER TABLE %I %s %s now()', 'x', 'y', 'z'); END $$", "ALTER TABLE %I %s %s now()"),
        ("DO $$ BEGIN EXECUTE pg_catalog.format('DROP TABLE %I', 'x'); EXECUTE pg_catalog.format('SELECT f(%L)', 'x'); END $$", "f"),
        ("DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM t LOOP NULL; END LOOP; END $$", "t"),
        ("DO $$ BEGIN RAISE NOTICE '%', f(1); END $$", "f"), ("DO $$ BEGIN CASE 1 WHEN 2 THEN NULL; END CASE; END $$", "IN"),
        ("ALTER FUNCTION f() OWNER TO a", "f"), ("COMMENT ON FUNCTION f() IS 'x'", "f"), ("GRANT SELECT ON t TO a", "t"), ("DROP TABLE t", "t"),
        ("COPY t TO STDOUT", "t"), ("LOCK t", "t"), ("CALL f()", "f"), ("SELECT * FROM f(1)", "f"), ("WITH a AS (SELECT 1) SELECT * FROM b", "b"),
    ],
)  # fmt: skip
def test_each_kind_of_name_is_found(statement: str, name: str) -> None:
    assert name in [one.name for one in in_statement(statement)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 OPERATOR(pg_catalog.=) 1, coalesce(1, 2), current_user, pg_catalog.now(), 1::pg_catalog.oid, extract(epoch FROM pg_catalog.now())",
        "WITH a AS (SELECT 1) SELECT * FROM a", "SELECT 1 IS NULL, true IS NOT TRUE, ARRAY[1], interval '1 day', 1::int, x.y[1] FROM a.b x",
        "SELECT 1 OPERATOR(pg_catalog.=) ANY (ARRAY[1]), CASE WHEN true THEN 1 END", "SET search_path = x", "NOTIFY a",
        "DO $$ DECLARE a int := 1; b a.b%ROWTYPE; BEGIN a := 2; PERFORM a.f(a); END $$",
    ],
)  # fmt: skip
def test_what_is_qualified_is_not_found(statement: str) -> None:
    assert in_statement(statement) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"SELECT {HOLE} FROM a.b WHERE c = 1{HOLE}", "="), (f"WITH g AS MATERIALIZED ({HOLE}){HOLE} SELECT now() FROM g", "now"),
        (f"EXPLAIN (FORMAT JSON) {HOLE}", ""), (f"(SELECT 1) = {HOLE}", "="), (f"SELECT 1 FROM {HOLE} FROM {HOLE}", "not readable"),
    ],
)  # fmt: skip
def test_a_statement_with_holes_is_read(text: str, name: str) -> None:
    found = [(one.kind if one.kind == "not readable" else one.name) for one in in_python(Text(text, 1, fragment=False))]
    assert found == ([name] if name else [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.b = ANY (?)", "="), (", e AS (SELECT f.g FROM f.h f WHERE f.i < 1)", "<"), ("a.b OPERATOR(pg_catalog.=) 1, a.c::oid, ", "oid"),
        (f" AND a.b OPERATOR(pg_catalog.{HOLE}) ${HOLE} AND d()", "d"), ("a.b IS (", "not readable"),
    ],
)  # fmt: skip
def test_a_part_of_a_statement_is_read(text: str, name: str) -> None:
    found = [(one.kind if one.kind == "not readable" else one.name) for one in in_python(Text(text, 1, fragment=True))]
    assert found == ([name] if name else [])


def test_only_one_place_opens_connections() -> None:
    """Everybody else would forget the pin."""
    opening = re.compile(r"\basyncpg\.(?:connect|create_pool)\(|\bpsycopg2?\.connect\(")
    found = {named(path) for path in PYTHON if opening.search(path.read_text())}
    # The demonstration is a client of its proxy.
    assert found == {"connections/opening.py", "demo/tour.py"}


def test_the_statement_that_pins_is_itself_qualified() -> None:
    text = pinned.statement({}, frozenset())
    assert in_statement(text) == [] and len(pglast.parse_sql(text)) == 3
