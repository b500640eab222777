"""Checks how a backend is told that its client has gone, and that it is read to its end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from secretproxy.config import BackendSettings
from secretproxy.proxy.client.endpoint import BackendEndpoint
from secretproxy.proxy.client.orphan import Orphan
from secretproxy.session.session import Limits
from secretproxy.wire import messages
from tests.unit.playbook import Playbook, complete, query, ready, row, testified


class Transport:
    """A connection to a backend."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.ended = False
        self.aborted = False

    def write_eof(self) -> None:
        self.ended = True

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.aborted = True

    def abort(self) -> None:
        self.aborted = True


class Scene:
    """A session in the middle of a statement, whose client has just gone."""

    def __init__(self, play: Playbook) -> None:
        self.kept: list[Any] = []
        self.recorded: list[Any] = []
        self.done = 0
        self.cancelled: list[bytes] = []
        self.transport = Transport()
        journal = SimpleNamespace(keep=self.keep, append=lambda events, wait: self.recorded.extend(events), backlog=0)
        self.runtime = SimpleNamespace(
            journal=journal,
            cancels=SimpleNamespace(send=lambda packet, session: self.cancelled.append(packet)),
            spawn=lambda work: None,
        )
        self.backend = BackendEndpoint(BackendSettings())
        self.backend.use(cast(asyncio.Transport, self.transport))
        self.orphan = Orphan(
            cast(Any, self.runtime),
            self.backend,
            play.session,
            play.interpreter,
            "id",
            lambda events: None,
            self.is_done,
        )

    def begin(self) -> None:
        self.orphan.begin(cancel=False)

    def keep(self, events: Any) -> asyncio.Future[None]:
        self.kept += events
        return asyncio.get_running_loop().create_future()

    def is_done(self) -> None:
        self.done += 1


def running() -> Playbook:
    play = Playbook(limits=Limits(max_statement_memory=70_000)).logged_in()
    play >> query("SELECT * FROM some_view")
    return play


async def test_a_backend_is_told_and_read_to_its_end() -> None:
    play = running()
    scene = Scene(play)
    scene.begin()
    assert scene.transport.said == [messages.TERMINATE] and scene.transport.ended
    assert scene.cancelled == []
    scene.backend.data_received(testified("hidden") + row("value"))
    assert len(scene.cancelled) == 1 and [event.secret_names for event in scene.kept] == [("hidden",)]
    scene.backend.data_received(complete() + ready())
    assert [(event.outcome, event.calls) for event in scene.recorded] == [("lost", 1)]
    assert scene.done == 1
    scene.backend.connection_lost(None)
    assert scene.done == 1 and scene.transport.said == [messages.TERMINATE]


async def test_in_the_middle_of_a_message_there_is_no_terminate() -> None:
    """It would be taken for a part of the message. The end of the stream tells the backend."""
    play = running()
    play >> query("SELECT '" + "x" * 200_000 + "'")[:100_000]
    scene = Scene(play)
    scene.begin()
    assert scene.transport.said == [] and scene.transport.ended
    scene.backend.data_received(testified("hidden") + row("value"))
    assert [event.secret_names for event in scene.kept] == [("hidden",)]
    assert (scene.done, scene.transport.aborted) == (0, False)


async def test_what_is_not_understood_ends_it() -> None:
    scene = Scene(running())
    scene.begin()
    scene.backend.data_received(b"!\0\0\0\4")
    assert scene.done == 1


async def test_what_waits_for_the_log_is_bounded() -> None:
    scene = Scene(running())
    scene.begin()
    scene.runtime.journal.backlog = 1_000_000
    futures: list[asyncio.Future[None]] = []
    scene.runtime.journal.keep = lambda events: futures.append(scene.keep(events)) or futures[-1]
    scene.backend.transport = None
    scene.backend.data_received(testified("one"))
    assert scene.backend.paused and len(scene.kept) == 1
    scene.backend.data_received(testified("two", clock=1 << 60))
    assert len(scene.kept) == 1, "read when the log has taken the first"
    futures[0].set_result(None)
    await asyncio.sleep(0)
    assert len(scene.kept) == 2
