"""Checks reviewing as a newcomer does it: commands in a terminal of 80 columns and in pipes, against accesses made
through the proxy."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import operator
import os
import pty
import queue
import re
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

LONG = "a-name-that-is-much-longer-than-any-column-of-a-terminal-should-ever-be/" * 2
HOSTILE = "[/bold][red] :key: \x1b[2J\rback\u202etxt.\x9b31m\n"


def run(
    postgres: Backend, *arguments: str, user: str = "auditor", database: str = "app"
) -> subprocess.CompletedProcess[str]:
    return secretproxy(["audit", *arguments, "--dsn", postgres.dsn(user, database)])


def in_terminal(columns: int, *command: str) -> str:
    """Gives what a command prints to a terminal of that width."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "secretproxy", *command],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    ) as process:
        os.close(follower)
        out = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:
                break
            if not part:
                break
            out += part
        process.wait(60)
    os.close(leader)
    return out.decode()


@pytest.fixture(scope="module")
def owner(postgres: Backend, proxy: Proxy) -> str:
    """Makes an owner with a story: writes, reads, a verify, a read of nothing, an error, hostile and long names."""
    made = str(uuid.uuid4())
    with psycopg.connect(proxy.dsn(), autocommit=True, application_name="review test") as sql:
        for name in ("stripe", LONG, HOSTILE):
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'value')", (made, name))
        for _ in range(6):
            sql.execute("SELECT encrypted_secrets.secrets_verify(%s, 'stripe', 'guess')", (made,))
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'stripe')", (made,))
        with pytest.raises(psycopg.Error):
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'bad', 'value', 'rot13')", (made,))
        sql.execute("SELECT encrypted_secrets.secrets_delete(%s, ARRAY['stripe', 'other'])", (made,))
    return made


def listed(postgres: Backend, *arguments: str) -> list[dict[str, object]]:
    done = run(postgres, "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_filter_finds_what_it_should(postgres: Backend, owner: str) -> None:
    def count(*arguments: str) -> int:
        return len(listed(postgres, "--owner", owner, *arguments))

    assert count() == 12
    assert count("--secret", "stripe") == 9
    assert count("--secret", "other") == 1
    assert count("--operation", "verify") == 6
    assert count("--function", "secrets_getter") == 1
    assert count("--function", "encrypted_secrets.secrets_delete(uuid,text[])") == 1
    assert count("--outcome", "error") == 1
    assert count("--user", "app_user") == 12
    assert count("--user", "nobody") == 0
    assert count("--client", "127.0.0.0/8") == 12
    assert count("--client", "10.0.0.1") == 0
    assert count("--application", "review test") == 12
    assert count("--since", "1h") == 12
    assert count("--until", "1h") == 0
    assert count("--limit", "3") == 3
    session = str(listed(postgres, "--owner", owner)[0]["session_id"])
    assert count("--session", session) == 12
    newest = listed(postgres, "--owner", owner, "--limit", "1")[0]
    assert (
        newest["operation"] == "delete" and newest["secret_names"] == ["stripe", "other"] and newest["outcome"] == "ok"
    )


def test_a_table_fits_80_columns_and_moves_no_cursor(postgres: Backend, owner: str) -> None:
    session = str(listed(postgres, "--owner", owner)[0]["session_id"])
    for width in (80, 200):
        text = in_terminal(width, "audit", "list", "--owner", owner, "--dsn", postgres.dsn("auditor"))
        plain = [line for line in text.replace("\r\n", "\n").splitlines() if line]
        # Nothing that a client chose moves the cursor, colours or turns around; where there is room it stands there as
        # an escape.
        assert not set("\x9b\u202e") & set(text) and "\x1b[2J" not in text
        assert width < 130 or "\\x1b[2J" in text
        assert len(plain) >= 12
        for line in plain:
            assert len(_without_colours(line)) <= width
        heads, lines = _without_colours(plain[0]).split(), [_without_colours(line) for line in plain[1:13]]
        # A long name pushes out neither user, outcome nor session; what there is no room for is named.
        assert {"at", "user", "op", "owner", "secret", "outcome", "session"} <= set(heads)
        assert all(word in line for line in lines for word in ("app_user", session[:8]))
        assert ("from" in heads) == all("127.0.0.1" in line for line in lines)
        assert ("from" in heads) != any("no room for" in line and "from" in line for line in plain[13:])
        year = str(datetime.now().astimezone().year)
        assert all(year in line for line in (lines if width > 130 else plain[:1])) and "UTC" in text
    assert owner in text and "review test" in text


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_terminal_gets_no_colours_where_nobody_wants_any(
    postgres: Backend, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("audit", "list", "--owner", owner, "--dsn", postgres.dsn("auditor"))
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert colours.search(in_terminal(80, *asked))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours.search(in_terminal(80, *asked))


def test_a_pipe_gets_no_colours_and_whole_cells(postgres: Backend, owner: str) -> None:
    out = run(postgres, "list", "--owner", owner).stdout
    assert "\x1b" not in out and LONG[:60] in out
    table = list(csv.DictReader(io.StringIO(run(postgres, "list", "--owner", owner, "--csv").stdout)))
    assert len(table) == 12 and json.loads(table[-1]["secret_names"]) == ["stripe", "other"]


def test_one_session_is_told(postgres: Backend, owner: str) -> None:
    session = str(listed(postgres, "--owner", owner)[0]["session_id"])
    told = run(postgres, "show", session).stdout
    assert "app_user" in told and "review test" in told and told.count("secrets_verify") == 6
    assert "error 22023" in told and "value" not in told.replace("review test", "")
    assert run(postgres, "show", str(uuid.uuid4())).returncode == 1


def test_stats_count_and_point_out(postgres: Backend, owner: str) -> None:
    done = run(postgres, "stats", "--owner", owner, "--json")
    answers = json.loads(done.stdout)
    assert sum(row["n"] for row in answers["outcomes"]) == 12
    assert {row["secret"] for row in answers["secrets"]} >= {"stripe", LONG, HOSTILE}
    assert [row["n"] for row in answers["users"]] == [12]
    assert any(row["n"] >= 5 for row in answers["many_verifies"])
    assert {row["secret"] for row in answers["first_time"]} >= {"stripe"}
    text = run(postgres, "stats", "--owner", owner).stdout
    assert "by secret" in text and "█" in text and "\x1b" not in text


def test_hostile_names_are_exact_for_machines_and_harmless_for_people(postgres: Backend, owner: str) -> None:
    session = str(listed(postgres, "--owner", owner)[0]["session_id"])
    dsn = ("--dsn", postgres.dsn("auditor"))
    for command in (("show", session), ("stats", "--owner", owner), ("list", "--owner", owner)):
        for text in (in_terminal(200, "audit", *command, *dsn), run(postgres, *command).stdout):
            assert not set("\x9b\u202e") & set(text) and "\x1b[2J" not in text and "\rback" not in text
            assert "[/bold][red] :key:" in text
    names = {str(access["secret_names"][0]) for access in listed(postgres, "--owner", owner)}  # type: ignore[index]
    assert HOSTILE in names
    table = csv.DictReader(io.StringIO(run(postgres, "list", "--owner", owner, "--csv").stdout, newline=""))
    assert HOSTILE in {json.loads(row["secret_names"])[0] for row in table}


def test_what_takes_long_says_in_a_terminal_how_far_it_is(postgres: Backend, owner: str, tmp_path: Path) -> None:
    """What goes to a terminal or a pipe itself is not mixed with that."""
    dsn = ("--dsn", postgres.dsn("auditor"))
    month = f"{datetime.now(UTC):%Y-%m}"
    evidence = in_terminal(100, "audit", "evidence", "--month", month, "--to", str(tmp_path / "evidence.zip"), *dsn)
    assert "rows verified" in evidence and "rows written" in evidence
    assert "rows written" in in_terminal(100, "audit", "export", str(tmp_path / "log.jsonl"), *dsn)
    assert "rows written" not in in_terminal(100, "audit", "export", "-", *dsn)
    found = run(postgres, "export", str(tmp_path / "again.jsonl"))
    assert "rows written" not in found.stdout + found.stderr and "rows\n" in found.stderr


def test_views_give_the_answers_of_the_commands(postgres: Backend, owner: str) -> None:
    def view(query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(postgres.dsn("auditor")) as sql:
            return sql.execute(query, (owner,)).fetchall()

    listed_now = listed(postgres, "--owner", owner)
    columns = ("id", "outcome", "sqlstate", "secret_names", "db_user", "operation", "how", "calls")
    rows = view(f"SELECT {', '.join(columns)} FROM secretproxy.secret_access WHERE owner_id = %s ORDER BY at, id")
    key = operator.itemgetter(0)
    assert sorted(([str(row[0]), *row[1:]] for row in rows), key=key) == sorted(
        ([access[name] for name in columns] for access in listed_now), key=key
    )
    answers = json.loads(run(postgres, "stats", "--owner", owner, "--limit", "100", "--json").stdout)
    counted = {row["secret"]: row["n"] for row in answers["secrets"]}
    of_view = dict(view("SELECT secret_name, accesses FROM secretproxy.accesses_by_secret WHERE owner_id = %s"))
    assert counted["stripe"] == 8 and of_view["stripe"] == 9  # the delete of two counts for each
    assert counted[LONG] == of_view[LONG] == 1
    failed = view("SELECT count(*) FROM secretproxy.failed_accesses WHERE owner_id = %s")[0][0]
    assert failed == sum(row["n"] for row in answers["outcomes"] if row["outcome"] not in ("ok", "unknown")) == 1
    assert {row["secret"] for row in answers["first_time"]} - {"stripe, other"} == {
        row[0] for row in view("SELECT secret_name FROM secretproxy.first_accesses WHERE owner_id = %s")
    } - {"other"}
    (run_of,) = answers["many_verifies"]
    assert (
        view("SELECT verifies, failed FROM secretproxy.many_verifies WHERE owner_id = %s")
        == [(run_of["n"], run_of["failed"])]
        == [(6, 0)]
    )
    days = view("SELECT sum(accesses) FROM secretproxy.accesses_by_day WHERE %s::text IS NOT NULL")[0][0]
    assert isinstance(days, Decimal) and days >= len(listed_now)


def test_every_view_has_a_comment_and_is_for_auditors(postgres: Backend) -> None:
    with psycopg.connect(postgres.dsn("auditor")) as sql:
        views = sql.execute(
            "SELECT c.oid::regclass::text, obj_description(c.oid) FROM pg_class c WHERE relkind = 'v' AND relnamespace = 'secretproxy'::regnamespace"
            " AND has_table_privilege(c.oid, 'SELECT')"
        ).fetchall()
        assert len(views) == 10 and all(comment for _, comment in views)
        for name, _ in views:
            sql.execute(f"SELECT * FROM {name} LIMIT 1")


def test_nothing_bad_input_and_no_permission_are_said(postgres: Backend, owner: str) -> None:
    assert "no access matches" in run(postgres, "list", "--owner", str(uuid.uuid4())).stdout
    for arguments, word in {
        ("list", "--owner", "me"): "--owner",
        ("list", "--since", "soon"): "--since",
        ("list", "--client", "here"): "--client",
        ("list", "--operation", "steal"): "--operation",
        ("list", "--json", "--csv"): "--json",
        ("show", "x"): "SESSION",
        ("export", "-", "--format", "xml"): "--format",
    }.items():
        done = run(postgres, *arguments)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr
    refused = run(postgres, "list", user="outsider")
    assert refused.returncode == 2 and "secretproxy_auditor" in refused.stderr
    for dsn, word in {
        "postgresql://auditor:hunter2@127.0.0.1:1/app": "--dsn", "host=x.invalid password=hunter2": "does not resolve",
        "postgresql://a@b/c?hunter2": "has no =",
        postgres.dsn("auditor", "none_such").replace("auditor@", "auditor:hunter2@"): "does not exist (SQLSTATE 3D000)",
    }.items():  # fmt: skip
        done = secretproxy(["audit", "list", "--dsn", dsn])
        assert done.returncode == 2 and word in done.stderr and len(done.stderr.splitlines()) == 1
        assert "hunter2" not in done.stderr + done.stdout
    elsewhere = run(postgres, "list", user="postgres", database="postgres")
    assert elsewhere.returncode == 2 and "secretproxy install" in elsewhere.stderr


def test_an_empty_log_says_so(postgres: Backend) -> None:
    import asyncio

    from secretproxy.install import install

    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE empty_log")
    asyncio.run(install(postgres.dsn(database="empty_log"), postgres.key_file, direct_calls="log"))
    assert "the log is empty" in run(postgres, "list", database="empty_log").stdout
    assert "the log is empty" in run(postgres, "stats", database="empty_log").stdout


def test_an_export_has_every_row_and_its_hashes(postgres: Backend, owner: str, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    assert run(postgres, "export", str(file), "--owner", owner).returncode == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 12 and all(len(row["row_hash"]) == 64 for row in rows)


def test_an_export_says_the_same_in_every_form(postgres: Backend, owner: str, tmp_path: Path) -> None:
    lines, table, columns = tmp_path / "log.jsonl", tmp_path / "log.csv", tmp_path / "log.parquet"
    for file, form in ((lines, "jsonl"), (table, "csv")):
        assert run(postgres, "export", str(file), "--owner", owner, "--format", form).returncode == 0
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    with table.open(newline="") as file_:
        rows = list(csv.DictReader(file_))
    assert [row["row_hash"] for row in rows] == [row["row_hash"] for row in told]
    plain = [name for name, value in told[0].items() if isinstance(value, str | int) and not isinstance(value, bool)]
    assert {"at", "function", "owner_id", "seq"} <= set(plain)
    assert [[row[name] for name in plain] for row in rows] == [
        ["" if r[name] is None else str(r[name]) for name in plain] for r in told
    ]
    done = run(postgres, "export", str(columns), "--owner", owner, "--format", "parquet")
    if importlib.util.find_spec("pyarrow") is None:
        assert done.returncode == 2 and "secretproxy[parquet]" in done.stderr and not columns.exists()
        return
    import pyarrow.parquet  # type: ignore[import-not-found,unused-ignore]

    kept = pyarrow.parquet.read_table(columns).to_pylist()
    assert [row["row_hash"].hex() for row in kept] == [row["row_hash"] for row in told]
    assert [row["secret_names"] for row in kept] == [row["secret_names"] for row in told]


def test_tail_shows_a_call_and_survives_a_lost_connection(postgres: Backend, proxy: Proxy) -> None:
    owner = str(uuid.uuid4())
    with subprocess.Popen(
        [sys.executable, "-m", "secretproxy", "audit", "tail", "--json", "--dsn", postgres.dsn("auditor")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as tail:  # fmt: skip
        try:
            assert tail.stderr is not None and tail.stdout is not None
            assert "following" in tail.stderr.readline()
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(
                target=lambda out: [lines.put(line) for line in out], args=(tail.stdout,), daemon=True
            ).start()

            def call(name: str) -> None:
                with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
                    sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, name))

            def next_name() -> str:
                while True:
                    row = json.loads(lines.get(timeout=15))
                    if row["owner_id"] == owner:
                        return str(row["secret_names"][0])

            call("one")
            assert next_name() == "one"
            with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
                gone = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'secretproxy audit'"
                assert admin.execute(gone).fetchone() == (1,)
            call("two")
            call("three")
            assert [next_name(), next_name()] == ["two", "three"]
            assert "connecting again" in tail.stderr.readline()
        finally:
            tail.terminate()
