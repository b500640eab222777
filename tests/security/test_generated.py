"""Draws statements that nobody wrote: a secret call, or something that only looks like one, in places of the grammar
drawn at random.

A counter inside the function knows how often it ran; the log must know the same number, and nothing of a look-alike.
TEST_STATEMENTS=20000 is a night's run.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from secretproxy.install import install
from tests.conftest import Backend
from tests.support.log import as_told
from tests.support.proxy import Proxy
from tests.support.raw import Address, Raw

DATABASE = "generated"
OWNER = "00000000-0000-4000-8000-00000000000b"
EXAMPLES = int(os.environ.get("TEST_STATEMENTS", "300"))
# The getter counts its calls before it does anything else.
COUNTING = r"""
DO $do$
DECLARE
    defined text := pg_get_functiondef('encrypted_secrets.secrets_getter(uuid,text,text)'::regprocedure);
    counting text := regexp_replace(defined, '\nBEGIN\n', E'\nBEGIN\n    PERFORM nextval(''public.counter'');\n');
BEGIN
    IF counting = defined THEN
        RAISE EXCEPTION 'no place for the counter';
    END IF;
    EXECUTE counting;
END
$do$;
"""
COUNTER = """
CREATE SEQUENCE public.counter;
GRANT USAGE ON SEQUENCE public.counter TO PUBLIC;
CREATE TABLE public.t (id int, v text NOT NULL);
INSERT INTO public.t VALUES (1, 'a'), (2, 'b');
GRANT ALL ON public.t TO PUBLIC;
GRANT CREATE ON SCHEMA public TO app_user;
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA other TO PUBLIC;
CREATE FUNCTION other.secrets_getter(uuid, text) RETURNS text LANGUAGE sql AS $$ SELECT 'other' $$;
CREATE FUNCTION public.wrapped(n text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000b', n, 'none'); END $$;
CREATE FUNCTION public.wrapped_two(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.wrapped($2); END $$;
CREATE OPERATOR public.==> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.wrapped_two);
CREATE DOMAIN public.strict_text AS text CHECK (public.wrapped(VALUE) IS NOT NULL);
CREATE AGGREGATE public.gather(text) (SFUNC = public.wrapped_two, STYPE = text);
CREATE TYPE public.wrapped_type AS (v text);
CREATE FUNCTION public.to_wrapped(public.t) RETURNS public.wrapped_type LANGUAGE plpgsql AS
$$ BEGIN RETURN ROW(public.wrapped($1.v)); END $$;
CREATE CAST (public.t AS public.wrapped_type) WITH FUNCTION public.to_wrapped(public.t);
CREATE VIEW public.seen AS SELECT id, public.wrapped(v) AS v FROM public.t;
GRANT SELECT ON public.seen TO PUBLIC;
"""

names = st.sampled_from(["alpha", "beta", "it''s", "grün", "a,b", '"q"', "$1", "--", "/*"])
schema = st.sampled_from(
    ["encrypted_secrets.", '"encrypted_secrets".', "Encrypted_Secrets . ", "encrypted_secrets/**/./* x */"]
)
function = st.sampled_from(["secrets_getter", '"secrets_getter"', "SECRETS_GETTER"])


@st.composite
def secret(draw: st.DrawFn) -> str:
    """Draws a call that gives a text."""
    called, name = draw(schema) + draw(function), draw(names)
    return draw(
        st.sampled_from(
            [
                f"{called}('{OWNER}', '{name}', 'none')",
                f"{called}(@owner@, @name@, 'none')",
                f"{called}(secret_name => '{name}', secrets_owned_field => '{OWNER}', default_value => 'x')",
                f"{called}('{OWNER}'::uuid, '{name}'::text, NULL)",
                f"{called}(CAST('{OWNER}' AS uuid), lower('{name}'))",
                f"public.wrapped('{name}')",
                f"('{name}'::text ==> '{name}')",
                f"('{name}'::text OPERATOR(public.==>) 'x'::text)",
                f"('{name}'::strict_text)::text",
                f"(SELECT gather(g) FROM (VALUES ('{name}'), ('x')) AS v (g))",
                "((SELECT t FROM t LIMIT 1)::wrapped_type).v",
                f"{called}('{OWNER}', E'\\x6bey', E'it\\'s')",
            ]
        )
    )


lookalikes = st.sampled_from(
    [
        "'encrypted_secrets.secrets_getter(1)'", f"other.secrets_getter('{OWNER}', 'x')", "(SELECT secrets_getter FROM (SELECT 'c'::text) AS s (secrets_getter))",
        "$q$encrypted_secrets.secrets_getter('a', 'b')$q$", "(SELECT encrypted_secrets FROM (SELECT 'd'::text) AS e (encrypted_secrets))",
        "'x' /* encrypted_secrets.secrets_getter('a', 'b') */", "'plain'", "'wrapped(1) ==> gather'", "(SELECT wrapped FROM (SELECT 'w'::text) AS s (wrapped))",
        "E'\\', encrypted_secrets.secrets_getter(1) --'", "(SELECT seen FROM (SELECT 'v'::text) AS q (seen))",
    ]
)  # fmt: skip
WRAPPERS = (
    "({0})", "coalesce({0}, 'n')", "coalesce(NULL, {0})", "(SELECT {0})", "CASE WHEN true THEN {0} ELSE 'e' END", "CASE {0} WHEN 'z' THEN 'a' ELSE 'b' END",
    "(ARRAY[{0}])[1]", "(ROW({0}, 1)).f1", "concat({0}, 'x')", "{0} || 'x'", "lower({0})", "left({0}, 3)::text", "nullif({0}, 'q')", "({0})::varchar::text",
    "(SELECT max(m) FROM (SELECT {0} AS m) AS d)", "(SELECT string_agg(s, '') FROM unnest(ARRAY[{0}]) AS s)", "({0} IS NULL)::text", "({0} = ANY (ARRAY['a']))::text",
    "(EXISTS (SELECT 1 WHERE {0} <> 'x'))::text", "({0} LIKE 'a%')::text", "({0} IN ('a', 'b'))::text", "greatest({0}, 'a')", "({0}) COLLATE \"C\"",
    "(SELECT first_value({0}) OVER ())", "to_json({0})::text", "format('%s', {0})", "substring({0} FROM 1 FOR 2)", "(VALUES ({0}))",
)  # fmt: skip
STATEMENTS = (
    "SELECT {0}", "SELECT {0} AS secrets_getter", "VALUES ({0}, 1)", "SELECT 1 WHERE {0} IS NOT NULL", "SELECT id FROM t WHERE id = 1 AND {0} <> 'x'",
    "WITH c AS (SELECT {0} AS v) SELECT * FROM c", "WITH c AS MATERIALIZED (SELECT {0} AS v) SELECT 1", "SELECT * FROM (SELECT {0} AS v) AS s",
    "SELECT * FROM t, LATERAL (SELECT {0} AS w) AS l", "SELECT count(*) FROM t GROUP BY {0}", "SELECT id FROM t ORDER BY {0}", "SELECT id FROM t LIMIT length({0})",
    "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT {0}", "EXPLAIN SELECT {0}", "COPY (SELECT {0}) TO STDOUT", "INSERT INTO t VALUES (9, {0})",
    "UPDATE t SET v = {0} WHERE id = 9", "DELETE FROM t WHERE id = 9 AND v <> {0}", "SELECT {0} UNION ALL SELECT 'y'", "SELECT DISTINCT {0}",
    "DO $d$ BEGIN PERFORM {0}; END $d$", "DO $d$ DECLARE x text := {0}; BEGIN IF ({0}) = 'x' THEN NULL; END IF; END $d$",
    "DO $d$ BEGIN BEGIN PERFORM {0}, 1 / 0; EXCEPTION WHEN OTHERS THEN NULL; END; END $d$", "SELECT * FROM seen", "SELECT v FROM seen WHERE id = 1",
    "SELECT {0} FROM nowhere", "SELECT 1 / (CASE WHEN {0} IS NULL THEN 0 ELSE 0 END)", "SELECT {0}, {0}",
    "BEGIN; SELECT {0}; ROLLBACK", "SELECT 1; SELECT {0}; SELECT 2", "PREPARE p AS SELECT {0}; EXECUTE p; EXECUTE p; DEALLOCATE p",
    "PREPARE p (text) AS SELECT $1; EXECUTE p({0}); DEALLOCATE p",
    "BEGIN; DECLARE c CURSOR FOR SELECT {0}; FETCH c; CLOSE c; COMMIT", "CREATE TEMP TABLE made AS SELECT {0} AS v; DROP TABLE made",
    "CREATE TEMP VIEW made AS SELECT {0} AS v; SELECT * FROM made; DROP VIEW made",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A text and how it is sent. `harmless`: it is to be a look-alike only. `escapes`: with standard_conforming_strings
    off."""

    text: bytes
    values: tuple[str, ...]
    harmless: bool
    extended: bool
    escapes: bool
    encoding: str


# With a backslash: what they are depends on standard_conforming_strings.
ESCAPED = (
    r"SELECT '\' /*', {0} --*/",
    r"SELECT 'it\'s', {0}, '\\'",
    r"SELECT N'\' --', {0}",
    "SELECT 'a' -- '\n '\\' --', {0}",
)
CODECS = {"UTF8": "utf-8", "SJIS": "cp932", "GBK": "gbk", "LATIN1": "latin-1"}
TAKE_PARAMETERS = ("SELECT", "VALUES", "WITH", "INSERT", "UPDATE", "DELETE")


@st.composite
def statements(draw: st.DrawFn) -> Made:
    harmless, escapes = draw(st.booleans()), draw(st.integers(0, 4)) == 0
    inner = draw(lookalikes if harmless else secret())
    for wrapper in draw(st.lists(st.sampled_from(WRAPPERS), max_size=4)):
        inner = wrapper.format(inner)
    # A look-alike with quotes of its own may end in the open there.
    frames = (
        ESCAPED if escapes and not harmless else [frame for frame in STATEMENTS if not (harmless and "seen" in frame)]
    )
    frame = draw(st.sampled_from(frames))
    several = ";" in frame.replace("$d$", "").split("DO")[0]
    extended = draw(st.booleans()) and not several
    text, values = frame.format(inner), ()
    if extended and frame.startswith(TAKE_PARAMETERS) and "@owner@" in text:
        text, values = text.replace("@owner@", "$1::uuid").replace("@name@", "$2::text"), (OWNER, "bound")
    text = text.replace("@owner@", f"'{OWNER}'").replace("@name@", "'bound'")
    encoding = draw(st.sampled_from(["UTF8", "UTF8", "UTF8", *CODECS]))
    if encoding != "UTF8":
        text += " /* \u30bd\u8868 */"
    return Made(text.encode(CODECS[encoding], "replace"), values, harmless, extended, escapes, encoding)


@dataclass
class Bench:
    """A session through the proxy, and the counter and the log past it."""

    runner: asyncio.Runner
    raw: Raw
    admin: psycopg.Connection[dict[str, Any]]
    marks: Iterator[int]
    seen: int = 0

    def counted(self) -> int:
        row = self.admin.execute("SELECT last_value, is_called FROM public.counter").fetchone()
        assert row is not None
        return int(row["last_value"]) if row["is_called"] else 0

    def play(self, text: str | bytes, *, extended: bool, values: tuple[str, ...] = ()) -> None:
        self.runner.run(self.raw.extended(text, values) if extended else self.raw.query(text))

    def logged(self, log: psycopg.Connection[dict[str, Any]]) -> list[dict[str, Any]]:
        """Gives the rows since the last time, up to a call of a name that only this one has: what the log has before
        that is complete."""
        mark = f"mark {next(self.marks)}"
        self.play(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '{mark}')", extended=False)
        while True:
            written = log.execute(
                "SELECT * FROM secretproxy.access_log WHERE database = %s AND event <> 'direct' AND seq > %s ORDER BY seq",
                (DATABASE, self.seen),
            ).fetchall()
            rows: list[Any] = list(as_told(written))
            mine = [row for row in rows if row["secret_names"] == [mark]]
            ended = mine and any(
                row["event"] == "outcome" and row["statement_no"] == mine[0]["statement_no"] for row in rows
            )
            if ended:
                self.seen = max(row["seq"] for row in rows)
                return [row for row in rows if row["statement_no"] != mine[0]["statement_no"]]


def executions(rows: list[dict[str, Any]]) -> int:
    """Counts how often the log says that something ran: each call's row is one, each attempt has its own count in the
    outcome that speaks of it."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["session_id"], row["statement_no"]

    def call(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["function"], row["owner_id"], row["secret_names"]

    told = sum(row["event"] == "call" for row in rows)
    for attempt in (row for row in rows if row["event"] == "attempt"):
        of_statement = [row for row in rows if row["event"] == "outcome" and key(row) == key(attempt)]
        (mine,) = [row for row in of_statement if row["function"] is None or call(row) == call(attempt)]
        told += mine["calls"] or 0  # None: its calls have rows of their own
    return told


@pytest.fixture(scope="module")
def bench(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), postgres.key_file, direct_calls="log"))
    with (
        psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True, row_factory=dict_row) as admin,
        asyncio.Runner() as runner,
    ):
        for statement in [*COUNTER.split(";\n"), COUNTING]:
            if statement.strip():
                admin.execute(statement)
        proxy = Proxy(
            tmp_path_factory.mktemp("generated"),
            postgres.address,
            postgres.dsn("journal"),
            postgres.key_file,
            catalog=30,
        ).start()
        proxy.wait_for_text("access log can be written")
        raw = runner.run(Raw.connect(Address("127.0.0.1", proxy.port, DATABASE, "app_user")))
        proxy.wait_for_text("catalog says what leads to secret functions")
        yield Bench(runner, raw, admin, itertools.count(1))
        runner.run(raw.terminate())
        proxy.stop()


@pytest.fixture(scope="module")
def central(postgres: Backend) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(postgres.dsn("auditor"), autocommit=True, row_factory=dict_row) as connection:
        yield connection


def test_the_log_counts_as_the_function_does(bench: Bench, central: psycopg.Connection[dict[str, Any]]) -> None:
    bench.logged(central)
    tried = {"calls": 0, "look-alikes": 0, "ran": 0}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(statements())
    def check(made: Made) -> None:
        harmless = made.harmless
        # What a statement that failed half-way left open.
        bench.play("ROLLBACK", extended=False)
        bench.play("DEALLOCATE ALL", extended=False)
        if made.escapes or made.encoding != "UTF8":
            bench.play(f"SET standard_conforming_strings = {'off' if made.escapes else 'on'}", extended=False)
            bench.play(f"SET client_encoding = {made.encoding}", extended=False)
        before = bench.counted()
        bench.play(made.text, extended=made.extended, values=made.values)
        ran = bench.counted() - before
        if made.escapes or made.encoding != "UTF8":
            bench.play("RESET standard_conforming_strings; SET client_encoding = UTF8", extended=False)
        rows = bench.logged(central)
        told = executions(rows)
        assert told == ran, f"the function ran {ran} times, the log knows of {told}"
        if harmless:
            assert rows == [], f"rows for a look-alike: {[row['event'] for row in rows]}"
        elif ran:
            assert any(
                row["event"] in ("attempt", "call") and row["function"].startswith("encrypted_secrets.secrets_getter")
                for row in rows
            )
        tried["look-alikes" if harmless else "calls"] += 1
        tried["ran"] += ran

    check()
    assert (
        tried["calls"] > EXAMPLES // 10 and tried["look-alikes"] > EXAMPLES // 10 and tried["ran"] > EXAMPLES // 10
    ), tried


def test_texts_of_one_template_have_their_own_rows(bench: Bench, central: psycopg.Connection[dict[str, Any]]) -> None:
    """They differ in their constants alone, so that most of them are not parsed (detect/templates.py)."""
    bench.logged(central)
    before, sent = bench.counted(), []
    for setting, number, extended in itertools.product(("on", "off"), range(4), (False, True)):
        bench.play(f"SET standard_conforming_strings = {setting}", extended=False)
        sent.append(f"it's {setting} {number} {extended}")
        name, numbers = sent[-1].replace("'", "''"), ", ".join(str(each) for each in range(number + 1))
        bench.play(
            f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '{name}', 'none') WHERE {number} IN ({numbers})",
            extended=extended,
        )
    bench.play("RESET standard_conforming_strings", extended=False)
    ran, rows = bench.counted() - before, bench.logged(central)
    assert ran == executions(rows) == len(sent)
    assert [row["secret_names"] for row in rows if row["event"] == "attempt"] == [[name] for name in sent]


def test_texts_that_differ_in_comments_have_their_own_rows(
    bench: Bench, central: psycopg.Connection[dict[str, Any]]
) -> None:
    """Most of them are not parsed (detect/templates.py): what runs and what is in the log must still be the same."""
    bench.logged(central)
    before, sent = bench.counted(), []
    for number, (head, tail) in enumerate(
        [
            ("", " /*trace='{}'*/"),
            ("/*{}*/ ", ""),
            ("", " -- {}"),
            ("/* /*{}*/ ' */", "--\r"),
            ("", "/*\\{}*/"),
            ("", ""),
        ]
        * 2
    ):
        head, tail, name = head.format(number), tail.format(number), f"name /*{number}*/ --"
        getter = f"encrypted_secrets.secrets_getter('{OWNER}', '{name}', 'none')"
        bench.play(f"{head}SELECT{head} {getter}{tail}", extended=False)
        bench.play(f"{head}DO LANGUAGE 'plpgsql' {tail}\n$d$ BEGIN PERFORM {getter}; END $d${tail}", extended=False)
        bench.play(f"SELECT 1;{head}SELECT {getter}{tail}", extended=False)
        bench.play(
            f"{head}SELECT encrypted_secrets.secrets_getter($1, $2, 'none'){tail}", extended=True, values=(OWNER, name)
        )
        sent += [name] * 4
    # A comment that is none, one that parts two strings, and one that has no end: that text does not run.
    name = "name"
    for text in ("SELECT '/*', {} --*/", "SELECT 'a' --x\n', ' --'\n, {} -- '", "SELECT 1 -/**/- 1, {} /*"):
        for tail in ("", "x*/", "*/"):
            bench.play(text.format(f"encrypted_secrets.secrets_getter('{OWNER}', '{name}')") + tail, extended=False)
    ran, rows = bench.counted() - before, bench.logged(central)
    assert ran == executions(rows)
    names = [row["secret_names"] for row in rows if row["event"] == "attempt"]
    assert [found for found in names if found not in ([name], None)] == [[each] for each in sent]
