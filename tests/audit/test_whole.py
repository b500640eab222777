"""Checks that nothing that a reviewing command prints is cut without a word, no two names look alike, and every text of
the log comes through."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from secretproxy.audit.filters import Filter
from secretproxy.cli.audit.showing import Column, Layout, cell_of, names_of, shortened
from secretproxy.install import install
from tests.audit.test_review import in_terminal, run
from tests.conftest import Backend

ACCESSES, EVENTS = 1314, 230
FILL = """
INSERT INTO secretproxy.access_log (at, event, instance, seq, session_id, statement_no, function, operation, owner_id, secret_names,
                                    db_user, database, application_name, outcome, duration, calls)
SELECT timestamptz '2026-10-01 12:00+00' + g * interval '1 hour' + e * interval '1 ms',
       CASE e WHEN 0 THEN 'attempt' ELSE 'outcome' END, '00000000-0000-4000-8000-000000000001', g * 2 + e,
       md5((g % 70)::text)::uuid, g, CASE e WHEN 0 THEN 'encrypted_secrets.secrets_getter(uuid,text,text)' END, CASE e WHEN 0 THEN 'read' END,
       CASE e WHEN 0 THEN md5('owner' || g % 90)::uuid END, CASE e WHEN 0 THEN ARRAY['stripe_key' || CASE g % 2 WHEN 0 THEN '' ELSE '_v2' END] END,
       'login_' || g % 40, 'app', 'billing', CASE e WHEN 1 THEN 'ok' END, CASE e WHEN 1 THEN 0.001 END, CASE e WHEN 1 THEN 1 END
  FROM generate_series(1, 1314) g, generate_series(0, 1) e;
INSERT INTO secretproxy.access_log (at, event, function, db_user, database)
SELECT timestamptz '2026-10-01 12:00+00' + g * interval '1 hour', (ARRAY['forgery', 'definition', 'table', 'refusal'])[1 + g % 4], 'f()', 'x', 'app'
  FROM generate_series(1, 230) g;
"""


def made(postgres: Backend, name: str, options: str = "") -> None:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {options}")  # type: ignore[arg-type]
    asyncio.run(install(postgres.dsn(database=name), postgres.key_file))


def dropped(postgres: Backend, name: str) -> None:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def database(postgres: Backend) -> Iterator[str]:
    name = f"whole_{uuid.uuid4().hex[:8]}"
    made(postgres, name)
    with psycopg.connect(postgres.dsn(database=name), autocommit=True) as sql:
        sql.execute(FILL)
    yield name
    dropped(postgres, name)


def lines_of(postgres: Backend, database: str, *arguments: str) -> list[str]:
    done = run(postgres, *arguments, database=database)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def screen(postgres: Backend, database: str, *arguments: str, width: int = 120) -> list[str]:
    text = in_terminal(width, "audit", *arguments, "--dsn", postgres.dsn("auditor", database))
    return [
        re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in text.replace("\r\n", "\n").splitlines() if line.strip()
    ]


def test_what_a_program_reads_is_whole_unless_it_asks_for_less(postgres: Backend, database: str) -> None:
    refusals = len([g for g in range(1, EVENTS + 1) if g % 4 == 3])
    everything = ACCESSES + refusals
    assert len(lines_of(postgres, database, "list", "--json")) == everything
    assert len(lines_of(postgres, database, "list", "--csv")) == everything + 1
    assert len(lines_of(postgres, database, "list")) == everything + 1
    assert len(lines_of(postgres, database, "list", "--json", "--limit", "7")) == 7
    for most in (2**63 - 1, 10**20):
        assert len(lines_of(postgres, database, "events", "--json", "--limit", str(most))) == EVENTS, "all of them"
    assert len(lines_of(postgres, database, "events", "--json")) == EVENTS
    assert len(lines_of(postgres, database, "events", "--csv", "--kind", "forgery,table")) == 1 + len(
        [g for g in range(1, EVENTS + 1) if g % 4 in (0, 2)]
    )
    counted = json.loads("".join(lines_of(postgres, database, "stats", "--json")))
    assert len(counted["secrets"]) == 91 and sum(row["n"] for row in counted["secrets"]) == everything
    assert len(counted["users"]) == 41 and len(counted["first_time"]) > 90
    assert len(json.loads("".join(lines_of(postgres, database, "stats", "--json", "--limit", "3")))["users"]) == 3
    assert (
        len(
            json.loads(
                "".join(lines_of(postgres, database, "compare", "--by", "user", "--with-application", "none", "--json"))
            )
        )
        == 41
    )
    assert not any("more" in line for line in lines_of(postgres, database, "stats"))


def test_what_a_person_sees_says_how_much_more_there_is(postgres: Backend, database: str) -> None:
    accesses = ACCESSES + len([g for g in range(1, EVENTS + 1) if g % 4 == 3])
    shown = screen(postgres, database, "list")
    assert (
        shown[-1]
        == f"100 newest accesses are shown, {accesses - 100:,} more: --limit 1000 shows more of them, --limit 0 all"
    )
    assert any("looked in the log in database" in line and "read as auditor" in line for line in shown)
    assert len(screen(postgres, database, "list", "--limit", "0")) >= accesses
    assert "more" not in screen(postgres, database, "list", "--limit", "5000")[-1]
    shown = screen(postgres, database, "events")
    assert shown[-1].startswith(f"100 newest events are shown, {EVENTS - 100} more")
    counted = screen(postgres, database, "stats")
    assert "81 more: --limit 0 shows all" in counted and "31 more: --limit 0 shows all" in counted
    few = screen(postgres, database, "list", "--session", "no such".replace("no such", "c4ca4238"), "--limit", "5")
    assert few[-1].startswith("5 newest accesses are shown, 14 more")


def test_names_that_differ_look_different(postgres: Backend, database: str) -> None:
    """This holds also where a column has room for half of them."""
    heading, *lines = screen(postgres, database, "list", width=80)
    place = heading.split().index("secret")
    assert len({line.split()[place] for line in lines if "login_" in line}) == 2
    stripe = ["stripe_key", "stripe_key_v2", "stripe_key_v3", "stripe_kex"]
    for width in range(6, 14):
        short = shortened(stripe, width)
        assert len(set(short.values())) == 4 and all(len(text) <= max(width, 8) for text in short.values())
    same = [f"production/{part}/database/password" for part in ("eu-west-1", "eu-west-2", "us-east-1")]
    assert len(set(shortened(same, 16).values())) == 3
    layout = Layout([Column("name", str, least=10), Column("other", lambda _: "x" * 30)], 44)
    assert len({cells[0] for cells in layout.take(same)}) == 3


def test_columns_are_chosen_and_time_is_named(
    postgres: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    heading, *rows = lines_of(
        postgres, database, "list", "--columns", "at,session,application,calls,statement", "--limit", "3"
    )
    assert heading.split() == ["at", "(Europe/Berlin)", "session", "application", "calls", "statement"]
    assert len(rows) == 3 and all(row.startswith("2026-11-2") and row.split()[3] == "billing" for row in rows), rows
    assert any("Europe/Berlin" in line for line in screen(postgres, database, "list", width=80))
    assert "2026" in screen(postgres, database, "list", width=80)[0]
    bad = run(postgres, "list", "--columns", "at,colour", database=database)
    assert bad.returncode == 2 and "--columns" in bad.stderr


def test_a_beginning_of_a_uuid_is_enough_where_only_one_has_it(postgres: Backend, database: str) -> None:
    whole = json.loads(lines_of(postgres, database, "list", "--json", "--limit", "1")[0])
    full = json.loads(
        lines_of(postgres, database, "list", "--json", "--owner", str(uuid.uuid4()), "--limit", "0") or "[]"
    )
    assert full == []
    row = json.loads(lines_of(postgres, database, "list", "--json", "--application", "billing", "--limit", "1")[0])
    for option, column in (("--owner", "owner_id"), ("--session", "session_id")):
        by_whole = lines_of(postgres, database, "list", "--json", option, row[column])
        assert by_whole and by_whole == lines_of(postgres, database, "list", "--json", option, row[column][:8])
        assert by_whole == lines_of(postgres, database, "list", "--json", option, row[column].upper()[:10] + "…")
    assert lines_of(postgres, database, "show", row["session_id"][:8])[0].endswith(row["session_id"])
    ambiguous = run(postgres, "list", "--owner", row["owner_id"][:1], database=database)
    assert ambiguous.returncode == 2 and "several begin so" in ambiguous.stderr and "--owner" in ambiguous.stderr
    assert run(postgres, "show", row["session_id"][:1], database=database).returncode == 2
    assert run(postgres, "stats", "--owner", "xyz", database=database).returncode == 2
    assert whole["how"] in ("attempt", "refusal")


def test_a_spreadsheet_runs_nothing_of_a_client(postgres: Backend, database: str) -> None:
    formulas = [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff201",
        "a;=1",
        "a\n=1",
        " =1",
        "'=1",
        "x,-1",
    ]
    for text in formulas:
        cell = cell_of(text, raw=False)
        assert cell != text and cell.replace("'", "") == text.replace("'", "") and cell_of(text, raw=True) == text
    for text in ("stripe", "a=b", "2026-11-25T10:52:40+00:00", "f(uuid, text)", "x-y"):
        assert cell_of(text, raw=False) == text
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as sql:
        sql.execute(
            "INSERT INTO secretproxy.access_log (event, function, secret_names, db_user, application_name)"
            " VALUES ('direct', 'f()', ARRAY['=names'], '=cmd|x', '@app')"
        )
    for arguments in (("list", "--csv"), ("events", "--csv", "--kind", "direct")):
        for raw, login in (((), "'=cmd|x"), (("--raw",), "=cmd|x")):
            out = run(postgres, *arguments, "--since", "1h", *raw, database=database).stdout
            (row,) = csv.DictReader(io.StringIO(out, newline=""))
            assert row["db_user"] == login and row["application_name"] == login[: len(login) - 6] + "@app"
            assert json.loads(row["secret_names"]) == ["=names"]
    for raw, login in (((), "'=cmd|x"), (("--raw",), "=cmd|x")):
        out = run(postgres, "export", "-", "--format", "csv", "--since", "1h", *raw, database=database).stdout
        assert [row["db_user"] for row in csv.DictReader(io.StringIO(out, newline=""))] == [login]
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as sql:
        sql.execute("ALTER TABLE secretproxy.access_log DISABLE TRIGGER append_only")
        sql.execute("DELETE FROM secretproxy.access_log WHERE event = 'direct'")
        sql.execute("ALTER TABLE secretproxy.access_log ENABLE TRIGGER append_only")


def test_calls_past_the_proxy_of_another_database_are_said_to_lie_there(postgres: Backend, database: str) -> None:
    """The rows are of database app; the log is another one."""
    for command in (("list", "--limit", "1"), ("stats",), ("events", "--limit", "1")):
        done = run(postgres, *command, database=database)
        assert f"database {database} at" in done.stderr
        assert "came by no proxy to app are in the access log of that database itself" in done.stderr


NAMES = [b"caf\xe9", b"\xff\xfe", "schlüssel".encode(), b"back\\slash", b"\\xff", b"\xffescape\x1b[2J"]


def test_names_that_are_no_utf8_come_through_everywhere(postgres: Backend) -> None:
    name = f"ascii_{uuid.uuid4().hex[:8]}"
    made(postgres, name, "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        owner, session = uuid.uuid4(), uuid.uuid4()
        with psycopg.connect(postgres.dsn(database=name), autocommit=True) as sql:
            for number, raw in enumerate(NAMES):
                text = "convert_from(decode(%s, 'hex'), 'SQL_ASCII')"
                sql.execute(
                    f"INSERT INTO secretproxy.access_log (event, function, operation, owner_id, secret_names, db_user, session_id, statement_no)"
                    f" VALUES ('attempt', 'f()', 'read', %s, ARRAY[{text}], {text}, %s, %s)",
                    (owner, raw.hex(), raw.hex(), session, number),
                )
            sql.execute(
                "INSERT INTO secretproxy.access_log (event, function) VALUES ('forgery', convert_from('\\xff'::bytea, 'SQL_ASCII'))"
            )
        shown = [r"caf\xe9", r"\xff\xfe", "schlüssel", r"back\\slash", r"\\xff", "\\xffescape\x1b[2J"]
        rows = [json.loads(line) for line in lines_of(postgres, name, "list", "--json")]
        assert [row["secret_names"][0] for row in rows] == [row["db_user"] for row in rows] == shown
        for number, text in enumerate(shown):
            found = [json.loads(line) for line in lines_of(postgres, name, "list", "--json", "--secret", text)]
            assert [row["statement_no"] for row in found] == [number]
            assert lines_of(postgres, name, "list", "--json", "--user", text, "--limit", "5")
        table = csv.DictReader(io.StringIO(run(postgres, "list", "--csv", "--raw", database=name).stdout, newline=""))
        assert [json.loads(row["secret_names"])[0] for row in table] == shown
        for command in (("list",), ("show", str(session)), ("stats",), ("compare", "--by", "user", "--with-user", "x")):
            out = "\n".join(lines_of(postgres, name, *command))
            assert (
                all(text in out for text in (r"caf\xe9", r"\xff\xfe", "schlüssel", r"\\xff")) and "\x1b" not in out
            ), command
        assert r"\xff" in "".join(lines_of(postgres, name, "events"))
        counted = json.loads("".join(lines_of(postgres, name, "stats", "--json")))
        assert {row["secret"] for row in counted["secrets"]} == set(shown)
    finally:
        dropped(postgres, name)


def test_a_filter_takes_several_outcomes() -> None:
    from secretproxy.cli.audit.options import filtered

    assert filtered(outcome=["error,lost", "unknown"]).outcome == ("error", "lost", "unknown")
    assert isinstance(filtered(outcome=None), Filter)


def test_no_two_lists_of_names_are_shown_alike() -> None:
    """These differ: one name and several, none and one that is called so, a sign and its escape."""
    names = [
        "a",
        "b",
        "a,b",
        "a, b",
        '"a',
        '"a"',
        "",
        " ",
        "a ",
        "?",
        "(null)",
        "\\",
        "\\u202e",
        "\u202e",
        '"\\u202e"',
        "\n",
        "\\n",
        None,
    ]
    lists = [None, [], *([one] for one in names), *([one, other] for one in names for other in names)]
    shown = [names_of({"secret_names": each}) for each in lists if each != []]
    assert len(set(shown)) == len(shown)
    assert all(text.isprintable() for text in shown)
    assert names_of({"secret_names": ["stripe_key", 'DOMAIN\\user\'s "x"']}) == 'stripe_key, DOMAIN\\user\'s "x"'


@pytest.mark.parametrize("command", [("list", "--json"), ("verify",), ("export", "-")], ids=" ".join)
def test_a_reader_that_goes_away_is_told_from_something_that_was_found(
    postgres: Backend, database: str, command: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "secretproxy", "audit", *command, "--dsn", postgres.dsn("auditor", database)]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, "Traceback" in done.stderr) == (141, False), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("list", "--json"), ("list", "--csv"), ("events", "--json"), ("stats", "--json"), ("bursts", "--json"),
        ("compare", "--since", "1d", "--with-until", "1d", "--json"), ("unused", "--json"), ("export", "-"),
        ("secret", "stripe_key", "--json"), ("user", "login_1", "--json"), ("review", "--json"), ("verify", "--json"),
        ("incident", "--user", "login_1", "--since", "1d", "--json"),
    ],
    ids=lambda command: command[0] + command[-1],
)  # fmt: skip
def test_machine_output_too_says_on_standard_error_where_it_looked(
    postgres: Backend, database: str, command: tuple[str, ...]
) -> None:
    """Who files it must learn that the calls that came by no proxy to another database are not in it."""
    done = run(postgres, *command, database=database)
    assert f"looked in the log in database {database} at 127.0.0.1" in done.stderr, done.stderr
    assert "calls that came by no proxy to app are in the access log of that database" in done.stderr
    assert "looked in the log" not in done.stdout.replace('"looked_in": "the log', "")


STREAMS = {
    "standard output closed": (">&-", 2, "standard output is closed: send it to /dev/null where nobody reads it"),
    "standard error closed": ("2>&-", 0, ""),
    "standard error full": ("2>/dev/full", 2, ""),
    "standard output full": (">/dev/full", 2, "No space left on device"),
    "standard input closed": ("<&-", 0, "looked in the log"),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_a_standard_stream_that_cannot_be_used_is_no_traceback(postgres: Backend, database: str, stream: str) -> None:
    """Notes for a person are never among the rows, not even where there is no standard error."""
    redirected, status, said = STREAMS[stream]
    program = f'exec "{sys.executable}" -m secretproxy audit list --json --limit 3 --dsn "$DSN" {redirected}'
    done = subprocess.run(
        ["sh", "-c", program], env={**os.environ, "DSN": postgres.dsn("auditor", database)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status and "Traceback" not in done.stderr and said in done.stderr, done
    assert [set(json.loads(line)) > {"at", "db_user"} for line in done.stdout.splitlines()] == [True] * (
        0 if redirected.startswith(">") else 3
    )


@pytest.mark.parametrize("width", [60, 80, 99, 120])
def test_a_bar_is_never_shortened(postgres: Backend, database: str, width: int) -> None:
    """One that lost its middle is as long as another of a smaller number."""
    lines = screen(postgres, database, "stats", width=width)
    bars = [re.search("█[^ ]*$", line) for line in lines]
    longest = max(len(bar[0]) for bar in bars if bar)
    assert not any("…" in bar[0] for bar in bars if bar) and longest == (20 if width >= 100 else 10)
