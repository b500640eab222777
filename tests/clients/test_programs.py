"""Checks PostgreSQL's own programs: psql in all its ways, dumps with large objects, pgbench, base backups, replication,
foreign servers."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.both import SCHEMA, Both, Way, needs

PSQL = ("psql", "-X", "-v", "VERBOSITY=verbose")

SCRIPTS = {
    "describing": r"\d"
    "\n"
    r"\d+ t"
    "\n"
    r"\dt scenario.*"
    "\n"
    r"\df+ encrypted_secrets.*"
    "\n"
    r"\dp"
    "\n"
    r"\conninfo"
    "\n"
    r"\sf+ secrets_getter",
    "errors": "SELECT 1\n  + nothing\n FROM t;\nSELEC 1;\nSELECT 1/0;\n\\errverbose\nINSERT INTO t VALUES (1, 'again');",
    "gexec": "SELECT format('SELECT %s', n) FROM generate_series(1, 5) n \\gexec\nSELECT 'SELECT 1/0' \\gexec",
    "gset and gdesc": "SELECT 1 AS a, 'x' AS b \\gset v_\n\\echo :v_a :v_b\nSELECT 1::int2 AS s, now() AS t \\gdesc",
    "watch": "SELECT 'seen' \\watch c=3 i=0.01",
    "bind": "SELECT $1::int + $2 \\bind 1 2 \\g\nSELECT $1::int \\bind x \\g",
    "pipeline": "\\startpipeline\nSELECT 1 \\bind \\sendpipeline\nSELECT $1::text \\bind two \\sendpipeline\n\\flushrequest\n\\getresults\nSELECT 1/0 \\bind \\sendpipeline\nSELECT 3 \\bind \\sendpipeline\n\\syncpipeline\nSELECT 4 \\bind \\sendpipeline\n\\endpipeline",
    "prepared": "SELECT $1::int AS n \\parse named\n\\bind_named named 5 \\g\n\\close_prepared named\n\\bind_named named 5 \\g",
    "crosstab": "SELECT n % 3, n / 3, n FROM generate_series(0, 8) n \\crosstabview",
    "copy amid": "SELECT 1;\nCOPY t FROM STDIN;\n100\tfrom stdin\n\\.\nSELECT count(*) FROM t;\nCOPY (SELECT 1) TO STDOUT;\nCOPY t FROM STDIN;\nx\ty\n\\.\nSELECT 2;",
    "transactions": "BEGIN;\nSELECT nothing;\nSELECT 1;\nCOMMIT;\n\\set AUTOCOMMIT off\nSELECT 1;\nROLLBACK;\n\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1/0;\nSELECT 1;\nCOMMIT;",
    "fetch count": "\\set FETCH_COUNT 7\nSELECT n FROM generate_series(1, 50) n;",
    "several results": "SELECT 1\\; SELECT 2\\; SELECT 1/0\\; SELECT 3;",
    "session": "SET ROLE app_user;\nRESET ALL;\nSHOW search_path;\nDISCARD ALL;\nSELECT 1;\n\\encoding LATIN1\n\\encoding",
    "large objects": "\\lo_import input\n\\lo_list\n\\lo_export :LASTOID output\n\\lo_unlink :LASTOID",
}

# The first version of psql that knows it.
SINCE = {"watch": 17, "bind": 16, "pipeline": 18, "prepared": 18}


def table(way: Way) -> None:
    with psycopg.connect(way.backend.dsn("app_user"), autocommit=True) as connection:
        connection.execute(f"SET search_path = {SCHEMA}")
        connection.execute(
            "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 20) n"
        )


@pytest.mark.parametrize("name", SCRIPTS)
def test_psql(both: Both, name: str) -> None:
    needs(both.direct.backend, "psql")
    server = both.direct.backend.server
    if server is not None and server.binaries.major < SINCE.get(name, 0):
        pytest.skip(f"psql {server.binaries.major} does not know it, psql {SINCE[name]} does")
    changing = re.compile(
        r"LOCATION:.*|pg_toast_\d+|lo_unlink \d+|port \"\d+\"|lo_import \d+|^ *\d{5,} *\|| oid \d+|\d{1,2}:\d\d:\d\d|[Bb]ackend PID.*|Server Port.*",
        re.MULTILINE,
    )

    def scenario(way: Way) -> Any:
        table(way)
        (way.directory / "input").write_bytes(bytes(range(256)) * 500)
        done = way.run(*PSQL, way.dsn(), text=SCRIPTS[name] + "\n", check=False)
        output = way.directory / "output"
        return [
            changing.sub("#", done.stdout), changing.sub("#", done.stderr), done.returncode,
            output.read_bytes() if output.exists() else None,
        ]  # fmt: skip

    both.same(scenario)


def test_psql_commands_and_files(both: Both) -> None:
    needs(both.direct.backend, "psql", "pg_isready")

    def scenario(way: Way) -> Any:
        table(way)
        (way.directory / "script.sql").write_text("INSERT INTO t VALUES (200, 'x');\nSELECT 1/0;\nSELECT 1;\n")
        found = []
        for arguments in (
            ("--single-transaction", "-f", "script.sql"), ("-v", "ON_ERROR_STOP=1", "-f", "script.sql"), ("-1", "-c", "SELECT 1", "-c", "SELECT nothing"),
            ("-c", r"\copy t to copied"), ("-c", r"\copy (SELECT 1) to stdout csv"), ("-c", r"\copy t from copied"), ("--csv", "-c", "TABLE t"),
        ):  # fmt: skip
            done = way.run(*PSQL[:2], *arguments, way.dsn(), check=False)
            found.append((done.returncode, done.stdout, done.stderr))
        copied = (way.directory / "copied").read_text()
        return found, copied, way.run("pg_isready", "-q", "-h", way.host, "-p", str(way.port)).returncode

    assert both.same(scenario)


def test_control_c_in_a_script(both: Both) -> None:
    needs(both.direct.backend, "psql")

    def scenario(way: Way) -> Any:
        process = subprocess.Popen(
            [way.backend.program("psql"), "-X", "-d", way.plain(), "-c", "SELECT pg_sleep(61)", "-c", "SELECT 'not reached'"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with psycopg.connect(way.backend.dsn(), autocommit=True) as connection:
            asleep = (
                "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)' AND wait_event = 'PgSleep'"
            )
            deadline = time.monotonic() + 60
            while connection.execute(asleep).fetchone() != (1,):
                assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=60), process.returncode

    assert "canceling statement" in str(both.same(scenario))


@pytest.fixture(scope="module")
def filled() -> str:
    """Makes what a dump is made of."""
    return (
        "CREATE TABLE a (id int PRIMARY KEY, b bytea, c text COMPRESSION pglz); CREATE TABLE b (id int REFERENCES a); CREATE VIEW v AS SELECT * FROM a;"
        "INSERT INTO a SELECT n, decode(md5(n::text), 'hex'), repeat('long ', n) FROM generate_series(1, 1000) n; INSERT INTO b SELECT id FROM a;"
        "CREATE SEQUENCE s; SELECT nextval('s'); CREATE INDEX ON a (c text_pattern_ops) WHERE id < 10;"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f();"
        "SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 200), 'hex')) FROM generate_series(1, 20) n"
    )


def _database(way: Way, name: str, text: str | None) -> None:
    """Gives a new database, made through the way under test."""
    with psycopg.connect(way.plain("postgres", "postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    if text is not None:
        with psycopg.connect(way.backend.dsn(database=name), autocommit=True) as connection:
            connection.execute(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [("custom",), ("directory", "-j2"), ("tar",)], ids=lambda form: form[0])
def test_dump_and_restore(both: Both, filled: str, form: tuple[str, ...]) -> None:
    needs(both.direct.backend, "pg_dump", "pg_restore")

    def scenario(way: Way) -> Any:
        _database(way, "dumped", filled)
        _database(way, "restored", None)
        target = str(way.directory / form[0])
        way.run("pg_dump", "-F", form[0], *form[1:], "-f", target, way.plain("postgres", "dumped"))
        jobs = () if form[0] == "tar" else ("-j2",)
        way.run("pg_restore", *jobs, "-d", way.plain("postgres", "restored"), target)
        with psycopg.connect(way.backend.dsn(database="restored")) as connection:
            objects = connection.execute("SELECT lo_get(oid) FROM pg_largeobject_metadata ORDER BY 1").fetchall()
        text = way.run("pg_dump", way.plain("postgres", "restored")).stdout
        changing = r"^\\(un)?restrict .*$|'\d{5,}'|Name: \d{5,}|\.\.\d{5,}|LARGE OBJECT \d+"
        return objects, re.sub(changing, "#", text, flags=re.MULTILINE)

    objects, _ = both.same(scenario)
    assert len(objects) == 20


def test_maintenance(both: Both) -> None:
    needs(both.direct.backend, "vacuumdb", "reindexdb", "createdb", "dropdb", "pg_dumpall", "clusterdb")

    def scenario(way: Way) -> Any:
        table(way)
        at = ("-h", way.host, "-p", str(way.port), "-U", "postgres")
        found = []
        for program, *arguments in (
            ("createdb", "made"), ("createdb", "made"), ("vacuumdb", "-j2", "--analyze", "made"), ("reindexdb", "-j2", "--concurrently", "app"),
            ("clusterdb", "app"), ("dropdb", "made"), ("dropdb", "made"), ("pg_dumpall", "--roles-only", "--no-role-passwords"),
        ):  # fmt: skip
            done = way.run(program, *at, *arguments, check=False)
            # Two jobs at once say what they say in any order.
            found.append(
                (
                    program,
                    done.returncode,
                    re.sub(r"(un)?restrict .*", "", done.stdout),
                    sorted(done.stderr.splitlines()),
                )
            )
        return found

    assert [code for _, code, _, _ in both.same(scenario)] == [0, 1, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared", "pipeline"])
def test_pgbench(both: Both, mode: str) -> None:
    needs(both.direct.backend, "pgbench")
    script = "\\set a random(1, 20)\nBEGIN;\nSELECT b FROM t WHERE a = :a;\nUPDATE t SET b = b WHERE a = :a;\nCOMMIT;\n"
    if mode == "pipeline":
        script = "\\startpipeline\n" + script.replace("BEGIN;\n", "").replace("COMMIT;\n", "") + "\\endpipeline\n"

    def scenario(way: Way) -> Any:
        table(way)
        (way.directory / "script").write_text(script)
        chosen = "extended" if mode == "pipeline" else mode
        done = way.run(
            "pgbench", "-n", "-M", chosen, "-c", "3", "-t", "50", "-f", "script", "--max-tries=10", way.dsn()
        )
        return re.findall(r"actually processed: (\d+/\d+)|failed transactions: (\d+)", done.stdout)

    assert both.same(scenario)[0][0] == "150/150"


def test_base_backup(both: Both) -> None:
    needs(both.direct.backend, "pg_basebackup", "pg_verifybackup")

    def scenario(way: Way) -> Any:
        target = way.directory / "backup"
        dsn = way.plain("postgres", "postgres")
        way.run("pg_basebackup", "-d", dsn, "-D", str(target), "-X", "stream", "-c", "fast", "-P")
        checked = way.run("pg_verifybackup", str(target), check=False)
        found = (
            checked.returncode,
            checked.stdout,
            (target / "PG_VERSION").read_text(),
            sorted(path.name for path in target.iterdir()),
        )
        # It holds what the tables hold, values too.
        shutil.rmtree(target)
        return found

    assert "verified" in both.same(scenario)[1]


def _until(process: subprocess.Popen[str], found: Path, enough: int) -> None:
    deadline = time.monotonic() + 60
    while not found.exists() or found.stat().st_size < enough:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def slot(both: Both) -> Iterator[str]:
    with psycopg.connect(both.direct.backend.dsn(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS changed; CREATE TABLE changed (n int PRIMARY KEY, t text)")
        yield "changes"
        connection.execute("DROP TABLE changed")
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'changes'"
        )


def test_logical_decoding(both: Both, slot: str) -> None:
    needs(both.direct.backend, "pg_recvlogical")

    def scenario(way: Way) -> Any:
        dsn, out = way.plain("postgres"), way.directory / "changes"
        made = way.run("pg_recvlogical", "-d", dsn, "--slot", slot, "--create-slot", "-P", "test_decoding", check=False)
        if "could not access file" in made.stderr:
            pytest.skip("the PostgreSQL in use has no test_decoding")
        assert made.returncode == 0, made.stderr
        with psycopg.connect(way.plain("postgres"), autocommit=True) as connection:
            connection.execute(
                "TRUNCATE changed; INSERT INTO changed SELECT n, repeat('x', 5000) FROM generate_series(1, 50) n; DELETE FROM changed"
            )
            end = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert end is not None
        way.run("pg_recvlogical", "-d", dsn, "--slot", slot, "--start", "--endpos", end[0], "-f", str(out))
        way.run("pg_recvlogical", "-d", dsn, "--slot", slot, "--drop-slot")
        return re.sub(r"(BEGIN|COMMIT) \d+", r"\1", out.read_text())

    assert both.same(scenario).count("INSERT") == 50


def test_receiving_wal(both: Both) -> None:
    needs(both.direct.backend, "pg_receivewal")
    with psycopg.connect(both.direct.backend.dsn(), autocommit=True) as connection:
        for way in (both.direct, both.proxied):
            process = subprocess.Popen(
                [way.backend.program("pg_receivewal"), "-d", way.plain("postgres", "postgres"), "-D", str(way.directory), "--synchronous"],
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                deadline = time.monotonic() + 60
                while connection.execute(
                    "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal'"
                ).fetchone() != (1,):
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.05)
                name = connection.execute(
                    "SELECT pg_walfile_name(pg_logical_emit_message(false, 'secretproxy', 'something'))"
                ).fetchone()
                assert name is not None
                connection.execute("SELECT pg_switch_wal()")
                _until(process, way.directory / name[0], 16 * 1024 * 1024)
            finally:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            for path in way.directory.iterdir():
                path.unlink()


def test_a_subscription(both: Both) -> None:
    """The subscriber's server connects through the proxy: two databases of one server, so the slot is made
    beforehand."""

    def scenario(way: Way) -> Any:
        _database(
            way,
            "publisher",
            "CREATE TABLE news (n int PRIMARY KEY); INSERT INTO news SELECT generate_series(1, 500); CREATE PUBLICATION p FOR TABLE news",
        )
        _database(way, "subscriber", "CREATE TABLE news (n int PRIMARY KEY)")
        inside = f"host={way.host} port={way.port} user=postgres dbname=publisher"
        with (
            psycopg.connect(way.backend.dsn(database="publisher"), autocommit=True) as source,
            psycopg.connect(way.backend.dsn(database="subscriber"), autocommit=True) as target,
        ):
            source.execute("SELECT pg_create_logical_replication_slot('sub', 'pgoutput')")
            target.execute(f"CREATE SUBSCRIPTION sub CONNECTION '{inside}' PUBLICATION p WITH (create_slot = false)")  # type: ignore[arg-type]
            source.execute("INSERT INTO news SELECT generate_series(501, 1000); DELETE FROM news WHERE n % 10 = 0")
            deadline = time.monotonic() + 60
            while (found := target.execute("SELECT count(*), sum(n) FROM news").fetchone()) != (900, 450000):
                assert time.monotonic() < deadline, found
                time.sleep(0.1)
            target.execute("DROP SUBSCRIPTION sub")
        return found

    assert both.same(scenario)


def test_foreign_servers(both: Both) -> None:
    def scenario(way: Way) -> Any:
        table(way)
        with psycopg.connect(way.backend.dsn(), autocommit=True) as connection:
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE EXTENSION IF NOT EXISTS dblink")
            except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported):
                pytest.skip("the PostgreSQL in use cannot load postgres_fdw or dblink")
            connection.execute(
                f"DROP SERVER IF EXISTS away CASCADE; CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{way.host}', port '{way.port}',"  # type: ignore[arg-type]
                " dbname 'app', fetch_size '7', async_capable 'true'); CREATE USER MAPPING FOR postgres SERVER away OPTIONS (user 'app_user', password_required 'false');"
                f"CREATE SCHEMA IF NOT EXISTS away; DROP FOREIGN TABLE IF EXISTS away.t; IMPORT FOREIGN SCHEMA {SCHEMA} FROM SERVER away INTO away"
            )
            found: list[Any] = [connection.execute("SELECT * FROM away.t ORDER BY a").fetchall()]
            with connection.transaction():
                connection.execute("UPDATE away.t SET b = 'changed' WHERE a < 5")
                found.append(
                    connection.execute(
                        "INSERT INTO away.t SELECT n, 'far' FROM generate_series(100, 150) n RETURNING a"
                    ).fetchall()
                )
            found.append(
                connection.execute("SELECT count(*), count(*) FILTER (WHERE b = 'changed') FROM away.t").fetchone()
            )
            for text in ("INSERT INTO away.t VALUES (1, 'again')",):
                with pytest.raises(psycopg.errors.UniqueViolation):
                    connection.execute(text)  # type: ignore[arg-type]
            inside = f"host={way.host} port={way.port} user=app_user dbname=app"
            found.append(
                connection.execute(
                    "SELECT * FROM dblink(%s, 'SELECT n, n * 2 FROM generate_series(1, 20) n') AS t (a int, b int)",
                    (inside,),
                ).fetchall()
            )
            connection.execute(
                "SELECT dblink_connect('far', %s), dblink_send_query('far', 'SELECT 1; SELECT 2')", (inside,)
            )
            found.append(
                [connection.execute("SELECT * FROM dblink_get_result('far') AS t (a int)").fetchall() for _ in range(3)]
            )
            connection.execute("SELECT dblink_disconnect('far'); DROP SERVER away CASCADE; DROP SCHEMA away CASCADE")
        return found

    assert both.same(scenario)
