"""Walks through the first hour with a real server, where each login has a password: the README's lines, the docs'
transcript, what `install` says is missing."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.transcript import checked, programs

from secretproxy.connections import read
from secretproxy.connections.conninfo import Conninfo
from secretproxy.demo.postgres import PrivateServer, find_postgres, free_port
from secretproxy.install import install
from secretproxy.install.nextsteps import Setup, _Cluster, next_steps

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PASSWORD = "of-app"
_MISSING = [name for name in ("psql", "pg_isready", "openssl") if shutil.which(name, path="/usr/bin:/bin") is None]
typed = pytest.mark.skipif(
    bool(_MISSING),
    reason=f"not installed here: {', '.join(_MISSING)} (Debian: apt-get install postgresql-client openssl)",
)


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with PrivateServer(find_postgres(), auth="scram-sha-256", password="of-postgres") as made:
        yield made


@pytest.fixture
def fresh(server: PrivateServer) -> Iterator[PrivateServer]:
    """Gives a database and a login of an application; what a test makes beside them goes at its end."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        admin.execute("CREATE DATABASE app")
        try:
            yield server
        finally:
            admin.execute("DROP DATABASE app WITH (FORCE)")
            for (role,) in admin.execute(
                "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"
            ).fetchall():
                admin.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(psycopg.sql.Identifier(role)))


def variables(server: PrivateServer, directory: Path) -> dict[str, str]:
    """Gives what the pages say is set, and a port of the proxy that nobody else has."""
    passwords = directory / ".pgpass"
    passwords.write_text(f"*:*:*:postgres:of-postgres\n*:*:*:app:{PASSWORD}\n")
    passwords.chmod(0o600)
    return {
        "PGHOST": server.host, "PGPORT": str(server.port), "PGDATABASE": "app", "PGUSER": "postgres", "PSQLRC": "/dev/null",
        "HOME": str(directory), "SECRETPROXY_LISTEN_PORT": str(free_port()),
    }  # fmt: skip


def ended(pid: int, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


# --- the README ------------------------------------------------------------------------------------------------------


def lines_of_readme() -> list[str]:
    section = README[README.index("## Use it") : README.index("As a sidecar")]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def shell(text: str, directory: Path, environment: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    """Gives a shell with these lines, which writes down each command that fails."""
    watched = f"trap 'echo \"$BASH_COMMAND\" >> failed' ERR\n{text}"
    with output.open("wb") as out:
        return subprocess.Popen(
            ["bash", "-c", watched], cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip


@typed
@pytest.mark.timeout(600)
def test_the_readmes_lines_work_as_they_stand(fresh: PrivateServer, tmp_path: Path) -> None:
    first, second = lines_of_readme()
    given = variables(fresh, tmp_path)
    environment = programs(
        tmp_path, {name: value for name, value in given.items() if not name.startswith("PG") or name == "PSQLRC"}
    )
    # `pip install .` is what the tests run on. What is the reader's own stands in one line each.
    pip = tmp_path / ".programs" / "pip"
    pip.write_text('#!/bin/sh\n[ "$*" = "install ." ]\n')
    pip.chmod(0o755)
    own = re.compile(r"^export PGHOST=db\.example PGPORT=5432 PGDATABASE=app PGUSER=postgres  +# yours$", re.MULTILINE)
    assert len(own.findall(first)) == 1
    first = own.sub(f"export PGHOST={fresh.host} PGPORT={fresh.port} PGDATABASE=app PGUSER=postgres", first)
    proxy = shell(first, tmp_path, environment, tmp_path / "first.log")
    try:
        deadline = time.monotonic() + 300
        while b"listening" not in (tmp_path / "first.log").read_bytes():
            assert proxy.poll() is None and time.monotonic() < deadline, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        said = (tmp_path / "first.log").read_text()
        assert "ERROR" not in said and "FAIL" not in said, said
        other = shell(second, tmp_path, environment, tmp_path / "second.log")
        other.wait(300)
    finally:
        os.killpg(proxy.pid, signal.SIGTERM)
        proxy.wait(30)
    said = (tmp_path / "second.log").read_text()
    failed = (tmp_path / "failed").read_text().splitlines() if (tmp_path / "failed").exists() else []
    # The doctor's exit status says that it found something: nobody has set the server up with care.
    assert [line for line in failed if line not in ("secretproxy doctor", "secretproxy run")] == [], said
    assert re.search(r"^ t$", said, re.MULTILINE), said
    assert re.search(r"app .*write .*stripe_key .*ok", said), said
    with psycopg.connect(fresh.dsn("app"), autocommit=True) as sql:
        rows = sql.execute("SELECT db_user, operation, outcome FROM secretproxy.secret_access").fetchall()
        assert rows == [("app", "write", "ok")]
        for role, of in (("journal", "secretproxy_writer"), ("auditor", "secretproxy_auditor")):
            assert sql.execute("SELECT pg_has_role(%s, %s, 'USAGE'), rolsuper FROM pg_roles WHERE rolname = %s", (role, of, role)).fetchone() == (True, False)  # fmt: skip
    config = tmp_path / "secretproxy.toml"
    assert config.stat().st_mode & 0o777 == 0o600 and (tmp_path / "secretproxy.key").stat().st_mode & 0o777 == 0o600


def test_the_readme_begins_with_what_it_does_two_commands_and_what_they_show() -> None:
    lines = [line for line in README.splitlines() if line]
    assert lines[0] == "# secretproxy" and not any(line.startswith((" ", "#", "`")) for line in lines[1:4])
    assert [line.split("#")[0].strip() for line in lines if line.startswith("    make ")][:2] == [
        "make demo",
        "make test",
    ]
    assert (
        README.index("make test")
        < README.index("$ psql ")
        < README.index("secretproxy.secret_access")
        < README.index("## Use it")
    )


def test_the_readme_says_what_licences_come_with_it() -> None:
    said = " ".join(README.split())
    assert (
        "pglast, which is GPL-3.0-or-later" in said
        and "an image or bundle that contains pglast must respect that licence" in said
    )
    assert (
        'LABEL org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-or-later"' in (ROOT / "Dockerfile").read_text()
    )
    import importlib.metadata

    assert "GPL" in str(
        importlib.metadata.metadata("pglast").get("License")
        or importlib.metadata.metadata("pglast").get("License-Expression")
    )


# --- the transcript --------------------------------------------------------------------------------------------------


@typed
@pytest.mark.timeout(600)
def test_the_transcript_of_the_first_hour(fresh: PrivateServer, tmp_path: Path) -> None:
    try:
        checked(
            ROOT / "docs" / "first-hour.md",
            tmp_path,
            variables(fresh, tmp_path),
            # A read that comes before the proxy has looked at the functions is two rows.
            {
                f"{fresh.host}:{fresh.port}": "db.example:5432",
                "5 rows of 1 instances": "4 rows of 1 instances",
                "6 rows of 1 instances": "4 rows of 1 instances",
            },
        )
    finally:
        pid = int((tmp_path / "proxy.pid").read_text()) if (tmp_path / "proxy.pid").exists() else None
        if pid is not None and not ended(pid):
            os.kill(pid, signal.SIGKILL)
    assert "listening" in (tmp_path / "proxy.log").read_text()


# --- what is missing -------------------------------------------------------------------------------------------------

KEY_FILE = Path("some.key")


@pytest.fixture
def installed(fresh: PrivateServer, tmp_path: Path) -> PrivateServer:
    asyncio.run(install(fresh.dsn("app"), tmp_path / "keys"))
    return fresh


def missing(server: PrivateServer, user: str = "postgres", **setup: Any) -> list[str]:
    said = {
        "file": "some.toml",
        "audit_dsn": server.dsn("app", "journal", "x"),
        "review_dsn": server.dsn("app", "auditor", "x"),
    }
    password = None if user == "postgres" else PASSWORD
    return asyncio.run(next_steps(server.dsn("app", user, password), Setup(**(said | setup))))


def commands(steps: list[str]) -> list[str]:
    return [step.partition(": ")[2] for step in steps if step.endswith(";")]


def test_the_init_that_is_advised_can_be_typed() -> None:
    """Whatever the database is called, and where its socket is."""
    for place in ({"host": "db"}, {"host": "/run/my server"}):
        made = _Cluster(Conninfo({**place, "dbname": 'My "DB/1 %x?', "user": "postgres"})).dsn("journal")
        known = read(made)
        assert (known.database, known.user, known.get("host")) == ('My "DB/1 %x?', "journal", place["host"])


JOURNAL = "CREATE ROLE journal LOGIN PASSWORD '...' IN ROLE secretproxy_writer;"
AUDITOR = "CREATE ROLE auditor LOGIN PASSWORD '...' IN ROLE secretproxy_auditor;"
APP = "GRANT authenticated TO app;"


def test_each_command_that_is_named_mends_what_is_missing_and_then_nothing_is(installed: PrivateServer) -> None:
    steps = missing(installed)
    assert commands(steps) == [APP, JOURNAL, AUDITOR] and len(steps) == 3
    with psycopg.connect(installed.dsn("app"), autocommit=True) as sql:
        for done, command in enumerate(commands(steps), 1):
            sql.execute(command)
            assert commands(missing(installed)) == commands(steps)[done:]
    assert missing(installed) == []


def test_a_login_that_is_there_and_lacks_something_is_not_made_again(installed: PrivateServer) -> None:
    named = {
        "audit_dsn": f"host={installed.host} port={installed.port} dbname=app user='Half done'",
        "review_dsn": installed.dsn("app", "sleeps", "x"),
    }
    with psycopg.connect(installed.dsn("app"), autocommit=True) as sql:
        sql.execute('CREATE ROLE "Half done" LOGIN; CREATE ROLE sleeps NOLOGIN; GRANT authenticated TO app')
        steps = missing(installed, **named)
        assert commands(steps) == [
            'GRANT secretproxy_writer TO "Half done";', "ALTER ROLE sleeps LOGIN PASSWORD '...';", "GRANT secretproxy_auditor TO sleeps;",
        ]  # fmt: skip
        for command in commands(steps):
            sql.execute(command)
    assert missing(installed, **named) == []


def test_who_becomes_the_role_or_has_it_by_a_group_is_enough_and_who_administers_it_is_not(
    installed: PrivateServer,
) -> None:
    with psycopg.connect(installed.dsn("app"), autocommit=True) as sql:
        sql.execute("CREATE ROLE group_of_apps; GRANT authenticated TO group_of_apps; GRANT group_of_apps TO app")
        sql.execute(
            "CREATE ROLE journal LOGIN NOINHERIT; GRANT secretproxy_writer TO journal; CREATE ROLE auditor LOGIN"
        )
        assert commands(missing(installed)) == ["GRANT secretproxy_auditor TO auditor;"]
        if sql.info.server_version >= 160000:
            sql.execute("GRANT secretproxy_auditor TO auditor WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
            assert commands(missing(installed)) == ["GRANT secretproxy_auditor TO auditor;"]


def test_a_superuser_as_the_application_is_no_login_of_it(installed: PrivateServer) -> None:
    with psycopg.connect(installed.dsn("app"), autocommit=True) as sql:
        sql.execute("CREATE ROLE other LOGIN SUPERUSER")
        assert commands(missing(installed))[0] == APP
        sql.execute(
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA encrypted_secrets TO app; GRANT USAGE ON SCHEMA encrypted_secrets TO app"
        )
        # A role that has the functions by grants, as after an adoption.
        assert commands(missing(installed)) == [JOURNAL, AUDITOR]


def test_settings_that_are_unset_are_named_with_what_to_write(installed: PrivateServer) -> None:
    steps = missing(installed, audit_dsn=None, review_dsn=None)
    place = f"{installed.host}:{installed.port}"
    assert (
        f'the login that writes the log, in some.toml: audit.dsn = "postgresql://journal:PASSWORD@{place}/app"' in steps
    )
    assert (
        f'the login that reads the log, in some.toml: audit.review_dsn = "postgresql://auditor:PASSWORD@{place}/app"'
        in steps
    )
    assert commands(steps) == [APP, JOURNAL, AUDITOR]


def test_without_a_configuration_init_is_named_whole(installed: PrivateServer, tmp_path: Path) -> None:
    """And what it names can be run: it writes what the settings are."""
    steps = missing(installed, file=None, audit_dsn=None, review_dsn=None, new_key_file=KEY_FILE)
    command = steps[0].partition(": ")[2]
    assert steps[1].startswith("the key file") and str(KEY_FILE) in steps[1]
    assert commands(steps) == [APP, JOURNAL, AUDITOR] and len(steps) == 5
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=programs(tmp_path, {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "secretproxy.toml").read_text()
    assert (
        f'hosts = ["{installed.host}:{installed.port}"]' in text
        and "journal:PASSWORD@" in text
        and "auditor:PASSWORD@" in text
    )
    assert missing(installed, file="x", new_key_file=None) == steps[2:]


def test_of_settings_in_the_environment_none_is_missing(installed: PrivateServer) -> None:
    """The proxy's environment is another process's."""
    steps = missing(installed, file=None, audit_dsn=None, review_dsn=None, environment=True)
    assert commands(steps) == [APP, JOURNAL, AUDITOR] and len(steps) == 3


def test_a_role_that_is_no_superuser_can_run_what_is_named(fresh: PrivateServer, tmp_path: Path) -> None:
    with psycopg.connect(fresh.dsn(), autocommit=True) as admin:
        admin.execute(
            f"CREATE ROLE deployer LOGIN CREATEROLE PASSWORD '{PASSWORD}'; ALTER DATABASE app OWNER TO deployer"
        )
        if admin.info.server_version >= 160000:
            admin.execute("GRANT pg_read_all_stats TO deployer WITH ADMIN OPTION")
    asyncio.run(install(fresh.dsn("app", "deployer", PASSWORD), tmp_path / "keys"))
    steps = missing(fresh, "deployer")
    assert commands(steps) == [APP, JOURNAL, AUDITOR] and len(steps) == 3
    with psycopg.connect(fresh.dsn("app", "deployer", PASSWORD), autocommit=True) as sql:
        for command in commands(steps):
            sql.execute(command)
    assert missing(fresh, "deployer") == [] == missing(fresh)


def test_a_log_in_another_database_has_its_logins_there(installed: PrivateServer) -> None:
    elsewhere = {
        "audit_dsn": installed.dsn("log", "journal", "x"),
        "review_dsn": "postgresql://auditor@log.example:5433/app",
    }
    assert commands(missing(installed, **elsewhere)) == [APP]


def test_no_password_is_shown(installed: PrivateServer) -> None:
    said = "\n".join(
        missing(installed, audit_dsn=installed.dsn("app", "journal", "hunter2"), review_dsn=None, file=None)
    )
    assert "hunter2" not in said and "of-postgres" not in said
