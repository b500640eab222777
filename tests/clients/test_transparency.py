"""Plays more than three hundred sessions directly and through the proxy: the client is told the same, byte for byte.

What must differ is made equal: the key and process id of a cancel request and of a notification, OIDs of tables that
the session made itself. A startup packet that the proxy refuses without asking the backend has no file and line of
PostgreSQL's source, and the versions that it speaks are the proxy's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re

import psycopg
import pytest
from tests.clients.sessions import SETUP, sessions
from tests.clients.sessions.steps import END, Byte, Played, Until, Z
from tests.conftest import Backend
from tests.support.proxy import Proxy
from tests.support.raw import SYNC, TERMINATE, Address, Message, Raw, answer, message, query

SESSIONS = sessions()
# What goes out in single bytes takes a while.
DRIPPED_MOST = 4000
PATIENCE = 20


@pytest.fixture(scope="module")
def addresses(postgres: Backend, proxy: Proxy) -> tuple[Address, Address]:
    """Gives both addresses: direct, and through the proxy."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(SETUP)
    return Address(postgres.host, postgres.port, "app"), Address("127.0.0.1", proxy.port, "app")


async def play(played: Played, address: Address, pieces: random.Random | None = None) -> list[Message]:
    """Plays a session; where `pieces` is given, in small pieces. Gives all that the client was told."""
    at = Address(address.host, address.port, address.database, played.user)
    given = {"search_path": "played, public"} | dict(played.parameters)
    raw = await (Raw.open(at) if played.raw else Raw.connect(at, **given))
    # A session that was ended does not take what comes next; what it said before counts.
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            await _go_through(played, raw, pieces)
    await raw.terminate()
    return raw.seen


async def _go_through(played: Played, raw: Raw, pieces: random.Random | None) -> None:
    for step in played.steps:
        if isinstance(step, Z):
            await raw.ready(step.count)
        elif isinstance(step, Until):
            await raw.until(step.kinds)
        elif isinstance(step, Byte):
            await raw.byte()
        elif pieces is None:
            await raw.send(step)
        else:
            await raw.drip(step, 1 if len(step) < DRIPPED_MOST else pieces.randint(500, 5000))


def told(seen: list[Message], played: Played) -> list[bytes]:
    """Gives what was seen as comparable bytes, one a message."""
    out = [part for part in answer([seen]) if part]
    out += [b"K %d" % len(found.body) for found in seen if found.kind == b"K"]
    return [_without_source(part) if played.raw and part[:1] == b"E" else part for part in out]


def _without_source(part: bytes) -> bytes:
    part = re.sub(rb"server supports [^\0]*", b"", part)
    return b"\0".join(field for field in part.split(b"\0") if field[:1] not in (b"F", b"L", b"R"))


@pytest.mark.parametrize("played", SESSIONS, ids=lambda played: played.name)
async def test_the_client_is_told_the_same(addresses: tuple[Address, Address], played: Played) -> None:
    direct, proxied = addresses
    expected = told(await play(played, direct), played)
    assert told(await play(played, proxied), played) == expected
    assert told(await play(played, proxied, random.Random(played.name)), played) == expected


async def test_a_flush_with_content_is_an_error_of_the_same_code(addresses: tuple[Address, Address]) -> None:
    """The server answers it with an error and goes on; the proxy, which could not follow it, ends the session."""
    played = Played("Flush with a body", (message(b"H", b"abc") + SYNC, query("SELECT 'after'"), TERMINATE, END))
    direct, proxied = [answer([await play(played, address)]) for address in addresses]
    errors = [[part for part in parts if part[:1] == b"E"] for parts in (direct, proxied)]
    assert [len(parts) for parts in errors] == [1, 1]
    assert all(b"\0C08P01\0" in part for (part,) in errors)
    assert any(b"after" in part for part in direct)
    assert not any(b"after" in part for part in proxied)


def test_there_are_enough() -> None:
    assert len(SESSIONS) >= 300


def test_until_its_first_statement_a_session_shows_the_greeting(postgres: Backend, proxy: Proxy) -> None:
    shown = "SELECT query FROM pg_stat_activity WHERE application_name = 'greeted'"
    own = "SELECT 'the first statement of its own'"
    with (
        psycopg.connect(postgres.dsn(), autocommit=True) as admin,
        psycopg.connect(proxy.dsn(), autocommit=True, application_name="greeted") as session,
    ):
        before = admin.execute(shown).fetchone()
        assert before is not None and before[0].startswith("SET LOCAL search_path = pg_catalog, pg_temp; SELECT ")
        session.execute(own)
        assert admin.execute(shown).fetchone() == (own,)
        # The setting of the greeting is in no list, and is there.
        names = [row[0] for row in session.execute("SHOW ALL").fetchall()]
        assert [name for name in names if name.startswith("secretproxy")] == []
        assert session.execute("SELECT current_setting('secretproxy.session') <> ''").fetchone() == (True,)
