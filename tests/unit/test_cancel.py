"""Checks cancel requests: which server a key leads to, whatever backends say of their keys, and that none leaves a
connection behind."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from secretproxy.config import Host
from secretproxy.proxy.backend.cancel import Cancels
from secretproxy.proxy.backend.connect import Target
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.wire import messages


class Server:
    """A server that takes what it is sent; it closes when it is asked to."""

    def __init__(self, *, answers: bool) -> None:
        self.taken: list[bytes] = []
        self.open = 0
        self._answers = answers

    async def start(self) -> Target:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return Target(Host(host="127.0.0.1", port=self._server.sockets[0].getsockname()[1]), "127.0.0.1")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.taken.append(await reader.read(1000))
        if not self._answers:
            await reader.read()
        self.open -= 1
        writer.close()

    def close(self) -> None:
        self._server.close()


class Hosts:
    def __init__(self, targets: list[Target]) -> None:
        self._targets = targets

    async def addresses(self) -> tuple[list[Target], list[str]]:
        return self._targets, []


def cancels(*targets: Target, timeout: float = 5.0) -> Cancels:
    return Cancels(cast(Any, Hosts(list(targets))), timeout, BackendTls())


@pytest.mark.parametrize("known", [True, False])
async def test_a_server_that_does_not_close_leaves_no_connection(known: bool) -> None:
    server = Server(answers=False)
    target = await server.start()
    asked = cancels(target, timeout=0.2)
    if known:
        asked.learn(b"key", target, "a")
    for _ in range(3):
        await asked.send(messages.cancel_request(b"key"), "somebody")
    assert len(server.taken) == 3
    async with asyncio.timeout(10):
        while server.open:
            await asyncio.sleep(0.01)
    server.close()


async def test_a_session_has_one_key_whatever_its_backend_says() -> None:
    """A backend that sends BackendKeyData again and again makes the proxy remember nothing."""
    one, other = Server(answers=True), Server(answers=True)
    first, second = await one.start(), await other.start()
    asked = cancels(second)
    for number in range(1000):
        asked.learn(b"%08d" % number, first, "a")
    await asked.send(messages.cancel_request(b"00000999"), "somebody")
    assert (len(one.taken), len(other.taken)) == (1, 0)
    # Not known any more, so the servers of backend.hosts are asked.
    await asked.send(messages.cancel_request(b"00000998"), "somebody")
    asked.forget("a")
    await asked.send(messages.cancel_request(b"00000999"), "somebody")
    assert (len(one.taken), len(other.taken)) == (1, 2)
    one.close()
    other.close()


async def test_a_server_does_not_take_over_the_key_of_anothers_session() -> None:
    one, other = Server(answers=True), Server(answers=True)
    first, second = await one.start(), await other.start()
    asked = cancels()
    asked.learn(b"key", first, "a")
    asked.learn(b"key", second, "b")
    asked.forget("b")
    await asked.send(messages.cancel_request(b"key"), "somebody")
    assert (len(one.taken), len(other.taken)) == (1, 0)
    one.close()
    other.close()
