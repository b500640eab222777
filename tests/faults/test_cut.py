"""Runs each command with its connection cut at any message, under a time limit, and as a login without rights: it says
one line, exit status 2."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.command import run
from tests.support.cutting import Cutting

from secretproxy.install import install
from secretproxy.install.keyfile import load_key_file, write_key_file

DATABASE = "cut"
COMMANDS = [
    (("audit", "list"), "auditor"), (("audit", "list", "--csv"), "auditor"), (("audit", "events"), "auditor"), (("audit", "stats"), "auditor"),
    (("audit", "bursts"), "auditor"), (("audit", "compare", "--since", "1d", "--with-since", "2d"), "auditor"), (("audit", "unused"), "auditor"),
    (("audit", "show", "0"), "auditor"), (("audit", "export", "-"), "auditor"), (("audit", "verify"), "auditor"), (("audit", "retention"), "postgres"),
    (("doctor",), "postgres"), (("verify",), "postgres"), (("keys", "status"), "postgres"), (("keys", "reencrypt"), "postgres"),
    (("keys", "rotate"), "postgres"), (("keys", "rotate", "--testimony", "--stage"), "postgres"), (("keys", "rotate", "--testimony", "--retire"), "postgres"), (("install",), "postgres"), (("install", "--again"), "postgres"),
]  # fmt: skip
# What the system says of a connection that is cut depends on what was under way.
CUT = re.compile("closed|Connection reset by peer|Broken pipe")
REVERT = (("revert", "--yes"), "postgres")
# Takes seconds a time: cut less often.
SLOW = (("doctor",), ("install", "--again"), ("revert", "--yes"))


@pytest.fixture(scope="module")
def database(postgres: Backend) -> Iterator[str]:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), postgres.key_file))
    yield DATABASE
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(scope="module")
def config(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("cut")
    path = directory / "secretproxy.toml"
    # One of its own: `keys` changes it.
    key_file = directory / "keys"
    write_key_file(key_file, load_key_file(postgres.key_file))
    path.write_text(
        f'[audit]\nretention = "400 days"\ncheckpoint_key_file = "{directory / "signing"}"\ncheckpoint_file = "{directory / "kept"}"\n'
        f'[testimony]\nkey_file = "{key_file}"\n'
    )
    return str(path)


@pytest.fixture(scope="module")
def relay(postgres: Backend) -> Iterator[Cutting]:
    with Cutting(postgres.host, postgres.port) as running:
        yield running


def settings(command: Sequence[str], config: str) -> list[str]:
    """Gives the arguments of a command; one that knows no configuration is given none."""
    return [] if command[0] == "keys" and "--testimony" not in command else ["--config", config]


def places(total: int, slow: bool) -> list[int]:
    """Gives the messages at which to cut. TEST_CUTS=all: at each."""
    if os.environ.get("TEST_CUTS") == "all":
        return list(range(1, total))
    first = [4] if slow else [2, 4, 7]
    return sorted({*first, *(8 + (total - 9) * number // 3 for number in (1, 2))})


@pytest.mark.parametrize(("command", "user"), [*COMMANDS, REVERT], ids=lambda one: one if isinstance(one, str) else " ".join(one))  # fmt: skip
def test_cut_at_any_message_it_ends_in_one_line(
    postgres: Backend, database: str, config: str, relay: Cutting, command: tuple[str, ...], user: str
) -> None:
    dsn = f"postgresql://{user}@127.0.0.1:{relay.port}/{database}"
    given = [*command, "--dsn", dsn, *settings(command, config)]
    relay.set(0)
    if "--stage" in command:
        # The second time the key is there.
        run(*given)
        relay.set(0)
    whole = run(*given)
    assert whole.status in (0, 1, 3), whole.err
    for number in places(relay.seen, command in SLOW):
        if command[0] == "revert":
            asyncio.run(install(postgres.dsn(database=database), postgres.key_file))
        relay.set(number, reset=number % 2 == 0, passing=number % 3 == 0)
        cut = run(*given)
        assert relay.seen >= number
        # What came after the last answer that counts (the goodbye, a rollback of what only read) costs nothing.
        if cut.status != 2 and number >= relay.seen - 2:
            assert cut.status == whole.status
            continue
        assert cut.status == 2, (number, cut)
        assert (
            f"127.0.0.1:{relay.port}" in cut.line and f"database {database}" in cut.line and f"user {user}" in cut.line
        ), cut.line
        assert CUT.search(cut.line) and "install`" not in cut.line and "member of" not in cut.line
    if command[0] == "revert":
        asyncio.run(install(postgres.dsn(database=database), postgres.key_file))


@pytest.mark.parametrize(
    ("command", "user"), [*COMMANDS, REVERT], ids=lambda one: one if isinstance(one, str) else " ".join(one)
)
def test_under_a_time_limit_it_says_so(
    postgres: Backend, database: str, config: str, command: tuple[str, ...], user: str
) -> None:
    """Somebody holds what it needs, and the connection string has a time limit of its own."""
    dsn = f"{postgres.dsn(user, database)}?options=-c%20statement_timeout%3D150"
    with psycopg.connect(postgres.dsn(database=database)) as holder:
        holder.execute(
            "LOCK TABLE secretproxy.access_log, secretproxy.changes, secretproxy.settings, secrets_schema.secrets_table,"
            " secretproxy.testimony_key, secretproxy.keyring IN ACCESS EXCLUSIVE MODE"
        )
        said = run(*command, "--dsn", dsn, *settings(command, config))
    assert said.status == 2, said
    assert "statement timeout" in said.line and "install`" not in said.line and "member of" not in said.line, said.line
    assert f"database {database}" in said.line and str(postgres.port) in said.line


@pytest.mark.parametrize("login", ["outsider", "app_user", "journal"])
@pytest.mark.parametrize("command", [command for command, _ in [*COMMANDS, REVERT]], ids=" ".join)
def test_a_login_without_rights_is_told_what_it_lacks(
    postgres: Backend, database: str, config: str, command: tuple[str, ...], login: str
) -> None:
    said = run(*command, "--dsn", postgres.dsn(login, database), *settings(command, config))
    if command == ("doctor",):
        assert said.status in (1, 3) and f"{login} may not look at" in said.out
        return
    assert said.status == 2, said
    assert re.search(
        r"permission denied|may not act as|lacks what install needs|keys are for their owner", said.line
    ), said.line
    if command == ("audit", "retention"):
        assert "the log's owner" in said.line and "GRANT" not in said.line
    elif command[0] == "audit":
        assert f"GRANT secretproxy_auditor TO {login}" in said.line


def test_an_auditor_who_removes_months_is_not_told_to_become_one(postgres: Backend, database: str, config: str) -> None:
    said = run("audit", "retention", "--dsn", postgres.dsn("auditor", database), "--config", config)
    assert said.status == 2 and "the log's owner" in said.line and "secretproxy_auditor" not in said.line


@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_a_tail_that_never_followed_ends_too(database: str, relay: Cutting, number: int) -> None:
    relay.set(number)
    said = run("audit", "tail", "--dsn", f"postgresql://auditor@127.0.0.1:{relay.port}/{database}")
    assert said.status == 2 and CUT.search(said.line) and f"database {database}" in said.line


def test_check_with_the_log_cut_at_any_message(
    postgres: Backend, database: str, relay: Cutting, tmp_path: Path
) -> None:
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[backend]\nhosts = ["{postgres.address}"]\n[listen]\nport = 0\n[testimony]\nkey_file = "{postgres.key_file}"\n'
        f'[audit]\ndsn = "postgresql://journal@127.0.0.1:{relay.port}/{database}"\n'
    )
    relay.set(0)
    assert run("check", "--config", str(config)).status == 0
    for number in places(relay.seen, False):
        relay.set(number, reset=number % 2 == 0, passing=number % 3 == 0)
        cut = run("check", "--config", str(config))
        (line,) = [line for line in cut.out.splitlines() if line.startswith("FAIL")]
        assert cut.status == 1 and line.startswith("FAIL  audit.dsn: "), (number, cut)
        assert f"database {database}" in line and f"127.0.0.1:{relay.port}" in line and CUT.search(line), (number, line)


@pytest.mark.parametrize(
    ("state", "message", "advice"),
    [
        ("57P03", "the database system is starting up", "try again"),
        ("53300", "sorry, too many clients already", "try again"),
        ("28P01", "password authentication failed for user", "give the password"),
        ("28000", "no pg_hba.conf entry for host", "name the "),
    ],
)
def test_what_a_server_says_at_the_login_is_repeated(state: str, message: str, advice: str) -> None:
    """Each failure has words of its own; nothing is to be installed for it, and nobody to be made a member."""
    fields = b"".join(
        letter + text.encode() + b"\0"
        for letter, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", state), (b"M", message))
    )
    answer = b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                head = client.recv(8)
                if head[4:] == struct.pack("!I", 80877103):
                    client.sendall(b"N")
                    client.recv(4096)
                else:
                    client.recv(4096)
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        for command in (
            ("audit", "list"),
            ("audit", "verify"),
            ("doctor",),
            ("verify",),
            ("keys", "status"),
            ("install",),
            ("revert", "--yes"),
        ):
            said = run(*command, "--dsn", f"postgresql://somebody:pw@127.0.0.1:{port}/app")
            assert said.status == 2 and f"{message} (SQLSTATE {state})" in said.line and advice in said.line, said
            assert f"user somebody to database app at 127.0.0.1:{port}" in said.line
            assert "install`" not in said.line and "member" not in said.line
        listener.shutdown(socket.SHUT_RDWR)


def test_advice_fits_the_cause(postgres: Backend, database: str, config: str) -> None:
    """Nobody is told to install what is installed, or to make a member of one who is."""

    def told(dsn: str, *command: str) -> str:
        said = run(*(command or ("audit", "list")), "--dsn", dsn)
        assert said.status == 2 and "Traceback" not in said.err
        return said.line

    empty = told(postgres.dsn("postgres", "postgres"))
    assert "no access log in database postgres" in empty and "run `secretproxy install` there" in empty
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as admin:
        admin.execute("REVOKE SELECT ON secretproxy.access_log FROM secretproxy_auditor")
        try:
            member = told(postgres.dsn("auditor", database))
        finally:
            admin.execute("GRANT SELECT ON secretproxy.access_log TO secretproxy_auditor")
        assert "is a member of secretproxy_auditor" in member and "GRANT" not in member and "install --again" in member
        admin.execute("ALTER TABLE secretproxy.access_log RENAME COLUMN via TO older")
        try:
            older = told(postgres.dsn("auditor", database))
        finally:
            admin.execute("ALTER TABLE secretproxy.access_log RENAME COLUMN older TO via")
        assert "another version's" in older and "via" in older and "run `secretproxy install` there" in older
    for command in (("audit", "list"), ("verify",), ("keys", "status"), ("doctor",)):
        parameter = told(f"{postgres.dsn('postgres', database)}?options=-c%20no_such_setting%3D1", *command)
        assert "no_such_setting" in parameter and "install" not in parameter and "member of" not in parameter
        value = told(f"{postgres.dsn('postgres', database)}?options=-c%20work_mem%3Dmuch", *command)
        assert "work_mem" in value and "install" not in value and "member of" not in value
        nowhere = told(postgres.dsn("postgres", "nowhere"), *command)
        assert 'database "nowhere" does not exist (SQLSTATE 3D000)' in nowhere and "install" not in nowhere
        nobody = told(postgres.dsn("nobody_here", database), *command)
        assert 'role "nobody_here" does not exist (SQLSTATE 28000)' in nobody and "install" not in nobody
