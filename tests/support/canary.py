"""Provides values with a unique marker, a session that puts them wherever a client can, and the search for them
everywhere the proxy could leave one."""

from __future__ import annotations

import base64
import contextlib
import functools
import secrets
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql as names

if TYPE_CHECKING:
    from secretproxy.demo.postgres import PrivateServer
    from tests.support.log import AccessLog
    from tests.support.proxy import Proxy

# What every test's values hold, this run of the tests through; the battery of evasions, whose files are kept, has one
# of its own.
MARKER = f"canary{secrets.token_hex(8)}"
MARKERS = (MARKER, "CANARYVALUE")
# Where one was found, and how many sessions put them there.
leaks: list[str] = []
sessions = 0
# Tables that hold keys, not words of a client.
_KEYS = ("keyring", "testimony_key", "context")


class Canary:
    """Makes values that share the marker."""

    marker = MARKER

    def __init__(self) -> None:
        self._made = 0

    def value(self) -> str:
        self._made += 1
        return f"{self.marker}-{self._made}-\\'\""

    def spellings(self) -> list[bytes]:
        return spellings()


@functools.cache
def spellings() -> list[bytes]:
    """Gives the markers in the forms in which they may be written: plain, upper case, hexadecimal, base64 at each of
    its three offsets.
    """
    found = []
    for marker in MARKERS:
        plain = marker.encode()
        found += [plain, plain.upper(), plain[::-1], plain.hex().encode(), plain.hex().upper().encode()]
        # The first and the last characters depend on the neighbours.
        found += [base64.b64encode(b"x" * place + plain)[4 if place else 0 : -4] for place in range(3)]
    return list(dict.fromkeys(found))


def held(content: bytes) -> bool:
    return any(spelling in content for spelling in spellings())


# --- a session that leaves values wherever it can --------------------------------------------------------------------


def _statements(value: str) -> Iterator[tuple[str, tuple[object, ...] | None]]:
    """Gives statements and their parameters; most of them fail, each in its own way."""
    owner = str(uuid.uuid4())
    getter = "SELECT encrypted_secrets.secrets_getter(%s, %s, %s)"
    yield "SELECT encrypted_secrets.secrets_upsert(%s, 'canary', %s)", (owner, value)
    yield "SELECT encrypted_secrets.secrets_upsert(%s, 'password', %s, 'crypt')", (owner, value)
    yield getter, (owner, "canary", None)
    yield getter, (owner, "nothing", value)
    yield "SELECT encrypted_secrets.secrets_verify(%s, 'password', %s)", (owner, value)
    yield "SELECT encrypted_secrets.secrets_verify(%s, 'password', %s)", (owner, f"{value} wrong")
    yield f"SELECT encrypted_secrets.secrets_getter('{owner}', 'canary', '{value}') -- {value}", None
    yield f"/* {value} */ SELECT encrypted_secrets.secrets_upsert('{owner}', 'canary', '{value}'), 1/0", None
    # In a name's, an owner's, an encoding's place.
    yield getter, (owner, f"sk_live_{value}", None)
    yield getter, (owner, value * 20, None)
    yield "SELECT encrypted_secrets.secrets_upsert(%s, %s, 'name')", (owner, f"{value}\n" * 20)
    yield "SELECT encrypted_secrets.secrets_upsert(%s, 'canary', 'x', %s)", (owner, value)
    yield "SELECT encrypted_secrets.secrets_delete(%s, ARRAY['a', %s])", (owner, f"ghp_A{value}")
    yield "SELECT encrypted_secrets.secrets_getter(%s, 'canary')", (value,)
    yield f"SELECT encrypted_secrets.secrets_getter('{value}', 'canary')", None
    # In what fails, and in what is said.
    yield f"SELECT encrypted_secrets.secrets_getter('{owner}', '{value}", None
    yield f"SELECT '{value}'::int, encrypted_secrets.secrets_getter('{owner}', 'canary')", None
    yield (
        f"DO $$ BEGIN PERFORM encrypted_secrets.secrets_getter('{owner}', 'canary'); RAISE EXCEPTION '{value}'; END $$",
        None,
    )
    yield f"DO $$ BEGIN RAISE INFO SQLSTATE 'SPX01' USING MESSAGE = '{value}', DETAIL = '{value}'; END $$", None
    yield f"DO $$ BEGIN RAISE WARNING '{value}'; END $$", None
    yield (
        f"DO $$ DECLARE x text := '{value}'; BEGIN EXECUTE 'SELECT encrypted_secrets.secrets_getter(''{owner}'', ''canary'')'; END $$",
        None,
    )
    yield f"SELECT encrypted_secrets.secrets_nothing('{value}')", None
    yield f"SELECT * FROM secrets_schema.secrets_table WHERE name = '{value}'", None
    # In identifiers and settings.
    yield f"PREPARE \"{value[:30]}\" AS SELECT encrypted_secrets.secrets_getter('{owner}', 'canary', '{value}')", None
    yield f'EXECUTE "{value[:30]}"', None
    yield f'DEALLOCATE "{value[:30]}"', None
    yield f"SELECT encrypted_secrets.secrets_getter('{owner}', 'canary') AS \"{value[:30]}\"", None
    yield f"SET application_name = 'sk_live_{value[:40]}'", None
    yield "SELECT set_config('secretproxy.session', %s, false)", (value,)
    yield getter, (owner, "canary", value)
    yield f"NOTIFY canary, '{value}'", None


def leave_values(proxy: Proxy, seconds: int = 3) -> bool:
    """Runs such a session through a proxy. False where it does not let one in."""
    global sessions
    value = f"{MARKER}-value"
    try:
        connection = psycopg.connect(f"{proxy.dsn()}?connect_timeout={seconds}", autocommit=True)
    except psycopg.Error:
        return False
    with contextlib.suppress(psycopg.Error), connection:
        for statement, parameters in _statements(value):
            for cursor in (connection.cursor(), psycopg.ClientCursor(connection)):
                with contextlib.suppress(psycopg.errors.Error):
                    cursor.execute(
                        statement.replace("%", "%%") if parameters and "%s" not in statement else statement, parameters
                    )
            if connection.closed:
                return True
        with (
            contextlib.suppress(psycopg.Error),
            connection.cursor() as cursor,
            cursor.copy("COPY public.nothing FROM STDIN") as copy,
        ):
            copy.write(f"{value}\n")
        with contextlib.suppress(psycopg.Error), connection.transaction():
            connection.execute(names.SQL("DECLARE {} CURSOR FOR SELECT 1").format(names.Identifier(value[:40])))
        sessions += 1
    return True


# --- the search ------------------------------------------------------------------------------------------------------


def search_process(proxy: Proxy) -> None:
    """Searches what others can see of a running proxy: its metrics, its command line and environment."""
    if not proxy.running:
        return
    with contextlib.suppress(urllib.error.URLError, OSError):
        for page in ("metrics", "readyz", "healthz"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}/{page}", timeout=30) as answer:
                    content = answer.read()
            except urllib.error.HTTPError as error:
                content = error.read()
            if held(content):
                leaks.append(f"/{page}")
    for pid in [proxy.pid, *children(proxy.pid)]:
        for name in ("cmdline", "environ", "comm"):
            # Not readable: that is what PR_SET_DUMPABLE is for.
            with contextlib.suppress(OSError):
                if held(Path(f"/proc/{pid}/{name}").read_bytes()):
                    leaks.append(f"/proc/PID/{name}")


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def search_server(server: PrivateServer) -> None:
    """Searches every table of every database's log."""
    with contextlib.suppress(psycopg.OperationalError):
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as sql:
            databases = [row[0] for row in sql.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()]
        for database in databases:
            leaks.extend(f"{database}: {table}" for table in search_database(server.dsn(database)))


def search_database(dsn: str) -> list[str]:
    # One search after the other in a text that is made once costs a sixth of one regular expression for all.
    forms = [spelling.decode() for spelling in spellings()]
    found = " OR ".join(["strpos(line, %s) > 0"] * len(forms))
    with psycopg.connect(dsn, autocommit=True) as sql:
        tables = sql.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'secretproxy' AND c.relkind = 'r' AND c.relname <> ALL (%s)",
            (list(_KEYS),),
        ).fetchall()
        return [
            name
            for (name,) in tables
            if sql.execute(
                f"SELECT FROM (SELECT t::text AS line FROM {name} t OFFSET 0) lines WHERE {found} LIMIT 1", forms
            ).fetchone()
            is not None
        ]


def search_files(directory: Path) -> None:
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and held(path.read_bytes()):
                leaks.append(str(path))


def found_in(canary: Canary, log: AccessLog, proxy: Proxy) -> list[str]:
    """Lists where a marker is found: tables of the log, the proxy's files, its process."""
    del canary
    before = len(leaks)
    leaks.extend(search_database(log.dsn))
    search_files(proxy.directory)
    search_process(proxy)
    found = leaks[before:]
    del leaks[before:]
    return found
