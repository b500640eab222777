"""Checks a login at a backend that says more than a login can be: nothing of it is kept without end."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, cast

import pytest

from secretproxy.proxy.authentication.login import BackendLogin
from secretproxy.wire.errors import ProtocolViolationError
from tests.unit.playbook import AUTHENTICATION_OK, message, parameter

NOTICE = message(b"N", b"SNOTICE\0C00000\0M" + b"x" * 8000 + b"\0\0")


class Transport:
    def write(self, data: bytes) -> None: ...


async def said(login: BackendLogin, data: bytes, until: asyncio.Task[Any]) -> int:
    """Says this for ever. Gives how many bytes were taken before the login was given up."""
    taken = 0
    while not until.done() and taken < 20_000_000:
        login.data_received(data)
        taken += len(data)
        await asyncio.sleep(0)
    return taken


@pytest.mark.parametrize(
    ("first", "flood"),
    [
        (b"", NOTICE),
        (b"", message(b"v", struct.pack("!ii", 196608, 0) + b"x" * 8000)),
        (AUTHENTICATION_OK, NOTICE),
        (AUTHENTICATION_OK, parameter("name", "x" * 8000)),
        (AUTHENTICATION_OK, message(b"K", b"x" * 8000)),
    ],
)
async def test_a_login_without_end_is_given_up(first: bytes, flood: bytes) -> None:
    login = BackendLogin("session")
    login.connection_made(cast(asyncio.BaseTransport, Transport()))
    if first:
        login.data_received(first)

    async def log_in() -> None:
        await login.open(b"")
        await login.log_in(cast(Any, None))

    task = asyncio.create_task(log_in())
    assert await said(login, flood, task) < 2_000_000
    with pytest.raises(ProtocolViolationError, match="no end of messages"):
        await task


async def test_a_message_longer_than_a_login_is_not_waited_for() -> None:
    login = BackendLogin("session")
    login.connection_made(cast(asyncio.BaseTransport, Transport()))
    login.data_received(b"N" + struct.pack("!i", 1 << 30))
    with pytest.raises(ProtocolViolationError, match="impossible length"):
        await login.open(b"")
