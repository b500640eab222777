"""Checks the sockets that are read past their transports: what the reader does, and that a session does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.proxy.client.endpoint import Endpoint
from secretproxy.proxy.client.relay import Life
from secretproxy.proxy.transport.direct import AVAILABLE, GAP, DirectReading
from secretproxy.session.states import Phase
from tests.unit.playbook import (
    AUTHENTICATION_OK,
    KEY_DATA,
    PARSE_COMPLETE,
    PID,
    ROW_DESCRIPTION,
    START,
    SYNC,
    complete,
    message,
    parameter,
    parse,
    query,
    ready,
    row,
    testified,
)
from tests.unit.test_plain import EXCHANGES
from tests.unit.test_plain import SECRET as SECRET_TEXT
from tests.unit.test_relay import HIDDEN, SECRET, Scene

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="nothing was compiled")

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [uvloop.new_event_loop, asyncio.new_event_loop]
# More than a pair of sockets keeps, by far.
MUCH = 8 << 20


def run(work: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


async def turns(count: int = 4) -> None:
    """Lets the event loop look at the sockets."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    """Waits for what comes by TCP, which takes the system a moment."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def pair(kind: str = "unix") -> tuple[socket.socket, socket.socket]:
    """Makes two ends of a connection, neither of which blocks."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def fails(*_: object) -> None:
    raise KeyError


def errors_told() -> list[type]:
    """Gives the kinds of errors that the event loop will have been told of."""
    told: list[type] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(type(context["exception"])))
    return told


def drain(sock: socket.socket) -> bytes:
    """Reads what is there."""
    found = b""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while data := sock.recv(1 << 20):
            found += data
    return found


async def all_of(sock: socket.socket, size: int) -> bytes:
    """Reads so many bytes, or what there is where it ends before."""
    found = b""
    async with asyncio.timeout(10):
        while len(found) < size:
            with contextlib.suppress(BlockingIOError):
                data = sock.recv(size)
                if not data:
                    break
                found += data
            await asyncio.sleep(0)
    return found


# --- the reader itself ------------------------------------------------------------------------------------------------


class Transport:
    """A transport, as far as its socket is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get_extra_info(self, name: str) -> Any:
        return self._sock if name == "socket" else None


class Ends:
    """Two connections whose inner ends are read and joined."""

    def __init__(self, kind: str = "unix") -> None:
        self.reading = DirectReading(asyncio.get_running_loop())
        self.one, self.far_one = pair(kind)
        self.two, self.far_two = pair(kind)
        self.sends = True
        self.taken: list[bytes] = []
        self.rest: list[bytes] = []
        self.over: list[int] = []
        self.reader = self._reader(self.one)
        self.peer = self._reader(self.two)
        self.reader.join(self.peer)
        self.peer.join(self.reader)
        self.reader.resume()

    def _reader(self, sock: socket.socket) -> Any:
        return self._reader_of(sock, self.rest.append, self.over.append)

    def _reader_of(self, sock: socket.socket, write: Any = print, over: Any = print) -> Any:
        transport: Any = Transport(sock)
        return self.reading.reader(transport, self.take, write, over)

    def take(self, data: bytes) -> bool:
        self.taken.append(data)
        return self.sends

    def close(self) -> None:
        self.reader.close()
        self.peer.close()
        self.reading.close()
        for sock in (self.one, self.far_one, self.two, self.far_two):
            sock.close()


@contextlib.contextmanager
def ends(kind: str = "unix") -> Iterator[Ends]:
    made = Ends(kind)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_chunk_is_sent_on_where_it_may_be(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def play() -> None:
        with ends() as made:
            made.far_one.send(b"one")
            await turns()
            assert made.taken == [b"one"] and made.far_two.recv(10) == b"one"
            made.sends = False
            made.far_one.send(b"two")
            await turns()
            assert made.taken == [b"one", b"two"] and drain(made.far_two) == b"" and not made.rest

    run(play(), loop)


def test_what_the_socket_does_not_take_goes_the_ordinary_way() -> None:
    async def play() -> None:
        with ends() as made:
            sent = b""
            while not made.rest:
                data = bytes([len(sent) % 251]) * 50_000
                made.far_one.send(data)
                sent += data
                await turns()
            arrived = drain(made.far_two)
            assert arrived + b"".join(made.rest) == sent == b"".join(made.taken) and 0 < len(arrived) < len(sent)
            made.two.close()

    run(play())


def test_what_is_sent_by_a_reader_goes_the_same_way() -> None:
    async def play() -> None:
        with ends() as made:
            assert made.peer.send(b"one")
            assert drain(made.far_two) == b"one" and not made.rest
            assert made.peer.send(bytes(MUCH))
            assert len(drain(made.far_two)) + sum(map(len, made.rest)) == MUCH and made.rest
            with pytest.raises(TypeError):
                made.peer.send("text")
            made.peer.close()
            assert not made.peer.send(b"two")

    run(play())


def test_a_socket_that_is_broken_has_it_found_the_ordinary_way() -> None:
    async def play() -> None:
        with ends() as made:
            made.far_two.close()
            made.far_one.send(b"one")
            await turns()
            assert made.rest == [b"one"]

    run(play())


def test_a_reader_that_is_paused_reads_nothing_and_is_not_asked_for_ever() -> None:
    async def play() -> None:
        with ends() as made:
            made.reader.pause()
            made.far_one.send(b"one")
            made.far_one.close()
            await turns()
            assert made.taken == [] and made.over == []
            watched: Any = made.reading
            number = watched._readers.fileno()
            assert select.select([number], [], [], 0)[0] == []
            made.reader.resume()
            await turns()
            assert made.taken == [b"one"] and made.over == [0]

    run(play())


@pytest.mark.parametrize("how", ["pause", "close"])
def test_a_reader_that_another_one_stops_in_the_same_turn_reads_nothing(how: str) -> None:
    async def play() -> None:
        reading = DirectReading(asyncio.get_running_loop())
        socks = [pair(), pair()]
        taken: list[bytes] = []
        readers: dict[bytes, Any] = {}

        def take(data: bytes) -> bool:
            taken.append(data)
            getattr(readers[data], how)()
            return False

        for name, (ours, theirs) in zip((b"two", b"one"), socks, strict=True):
            transport: Any = Transport(ours)
            readers[name] = reading.reader(transport, take, taken.append, print)
            readers[name].resume()
            theirs.send({b"two": b"one", b"one": b"two"}[name])
        await turns()
        assert len(taken) == 1
        for reader in readers.values():
            reader.close()
        reading.close()
        for sock in (*socks[0], *socks[1]):
            sock.close()

    run(play())


def test_a_reader_that_closes_itself_and_all_others_is_left_alone() -> None:
    async def play() -> None:
        reading = DirectReading(asyncio.get_running_loop())
        socks = [pair() for _ in range(3)]
        readers: list[Any] = []
        taken: list[bytes] = []

        def take(data: bytes) -> bool:
            taken.append(data)
            reading.close()
            for reader in readers:
                reader.close()
            readers.clear()
            gc.collect()
            return False

        for ours, theirs in socks:
            transport: Any = Transport(ours)
            readers.append(reading.reader(transport, take, taken.append, print))
            readers[-1].resume()
            theirs.send(b"data")
        await turns()
        assert taken == [b"data"]
        for sock in [sock for both in socks for sock in both]:
            sock.close()

    run(play())


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_end_is_told_once_and_leaves_the_other_direction(kind: str) -> None:
    async def play() -> None:
        with ends(kind) as made:
            made.far_one.send(b"last")
            made.far_one.shutdown(socket.SHUT_WR)
            await until(lambda: made.over)
            made.reader.pause()
            made.reader.resume()
            await turns()
            assert made.taken == [b"last"] and made.over == [0]
            made.peer.resume()
            made.far_two.send(b"answer")
            await until(lambda: made.taken[-1] == b"answer")
            assert await all_of(made.far_one, 6) == b"answer"

    run(play())


def test_an_error_is_told_by_its_number() -> None:
    async def play() -> None:
        with ends("tcp") as made:
            made.far_one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.far_one.close()
            await until(lambda: made.over)
            assert made.over == [errno.ECONNRESET]

    run(play())


@pytest.mark.parametrize("loop", LOOPS)
def test_an_error_of_a_function_is_told_to_the_event_loop_and_stops_nobody_else(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def play() -> None:
        told = errors_told()
        with ends() as made:
            made.peer.resume()
            taken, made.taken = made.taken, None  # type: ignore[assignment]
            made.far_one.send(b"one")
            await turns()
            assert told == [AttributeError] and made.over == [GAP]
            made.taken = taken
            made.far_one.send(b"three")
            made.far_two.send(b"two")
            await turns()
            assert made.taken == [b"two"] and drain(made.far_two) == b"" and drain(made.far_one) == b"two"

    run(play(), loop)


def test_errors_of_several_in_one_turn_stop_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_type))

    async def play() -> None:
        told = errors_told()
        reading = DirectReading(asyncio.get_running_loop())
        taken: list[bytes] = []

        def take(data: bytes) -> bool:
            taken.append(data)
            if data == b"bad":
                raise KeyError
            return False

        socks = [pair() for _ in range(4)]
        readers: list[Any] = []
        for (ours, theirs), said in zip(socks, (b"bad", b"good", b"bad", b"good"), strict=True):
            transport: Any = Transport(ours)
            readers.append(reading.reader(transport, take, print, taken.append))  # type: ignore[arg-type]
            readers[-1].resume()
            theirs.send(said)
        await turns()
        assert sorted(map(str, taken)) == sorted(map(str, [b"bad", GAP, b"good", b"bad", GAP, b"good"]))
        assert told == [KeyError] and unraisable == [KeyError]
        for reader in readers:
            reader.close()
        reading.close()
        for sock in [sock for both in socks for sock in both]:
            sock.close()

    run(play())


@pytest.mark.parametrize("ended", [True, False])
def test_what_one_read_leaves_is_read_though_nothing_more_comes(ended: bool) -> None:
    """More than one read takes, in the socket before it is looked at for the first time."""

    async def play() -> None:
        with ends("tcp") as made:
            made.sends = False
            made.reader.pause()
            with contextlib.suppress(PermissionError):
                made.one.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
            sent, quiet = 0, 0
            while quiet < 100 and sent < 2 << 20:
                try:
                    sent += made.far_one.send(bytes(100_000))
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                await turns()
            if ended:
                made.far_one.shutdown(socket.SHUT_WR)
            made.reader.resume()
            await until(lambda: sum(map(len, made.taken)) == sent and (made.over or not ended))
            assert made.over == ([0] if ended else [])

    run(play())


@pytest.mark.parametrize("how", ["write", "closed", "alone"])
def test_nothing_goes_on_behind_what_was_lost(how: str) -> None:
    """The socket takes nothing more and the peer's function fails, or there is no peer any more."""

    async def play() -> None:
        told = errors_told()
        with ends() as made:
            if how == "write":
                made.peer.close()
                made.peer = made._reader_of(made.two, write=fails)
                made.reader.join(made.peer)
                made.far_two.close()
            elif how == "closed":
                made.peer.close()
            else:
                made.reader.close()
                made.reader = made._reader(made.one)
                made.reader.resume()
            made.far_one.send(b"one")
            await turns()
            assert made.over == [GAP] and told == [KeyError if how == "write" else RuntimeError]
            made.far_one.send(b"two")
            made.reader.resume()
            await turns()
            assert made.taken == [b"one"]

    run(play())


def test_who_cannot_be_told_of_a_loss_is_read_from_no_more() -> None:
    async def play() -> None:
        told = errors_told()
        with ends() as made:
            made.reader.close()
            made.reader = made._reader_of(made.one, over=fails)
            made.reader.resume()
            made.far_one.send(b"one")
            await turns()
            made.far_one.send(b"two")
            await turns()
            assert made.taken == [b"one"] and told == [RuntimeError]

    hook: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda unraisable: hook.append(unraisable.exc_type))
        run(play())
    assert hook == [KeyError]


@pytest.mark.parametrize("again", [True, False], ids=["another has the number", "nobody has it"])
def test_a_socket_that_is_closed_too_soon_is_never_read_as_another(again: bool) -> None:
    """The entry stays where the connection has another number too: what it points to must stay as well."""

    async def play() -> None:
        reading: Any = DirectReading(asyncio.get_running_loop())
        ours, theirs = pair()
        taken: list[bytes] = []
        transport: Any = Transport(ours)
        reader = reading.reader(transport, taken.append, taken.append, taken.append)
        reader.resume()
        number, kept = ours.fileno(), ours.dup()
        ours.close()
        other, far = pair()
        if again:
            # The number that was given up is the lowest.
            assert number in (other.fileno(), far.fileno())
        else:
            other.close()
            far.close()
        reader.close()
        del reader
        gc.collect()
        for sock in (theirs, *((other, far) if again else ())):
            sock.send(b"not for it")
        await turns()
        assert taken == []
        reading.close()
        for sock in (theirs, kept, other, far):
            sock.close()

    run(play())


def test_readers_are_not_kept_once_they_are_closed_or_their_set_is_gone() -> None:
    class Owner:
        def take(self, data: bytes) -> bool:
            return False

    async def play() -> None:
        gone = []
        for close in (True, False):
            reading: Any = DirectReading(asyncio.get_running_loop())
            ours, theirs = pair()
            owner: Any = Owner()
            transport: Any = Transport(ours)
            owner.reader = reading.reader(transport, owner.take, print, print)
            owner.reader.join(owner.reader)
            gone.append(weakref.ref(owner))
            if close:
                owner.reader.close()
            reading.close()
            del owner, reading
            await turns()
            ours.close()
            theirs.close()
        gc.collect()
        assert [found() for found in gone] == [None, None]

    run(play())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_its_functions_do_to_readers_breaks_none(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has them close, pause, join, fail and collect at random; run with the address sanitizer, it finds what is used
    behind its end."""
    chance = random.Random(seed)
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_type))

    async def play() -> None:
        told = errors_told()
        reading = DirectReading(asyncio.get_running_loop())
        readers: list[Any] = []

        def act() -> None:
            kind, reader = chance.randrange(9), chance.choice(readers)
            if kind < 4:
                getattr(reader, ("pause", "resume", "resume", "close")[kind])()
            elif kind == 4:
                reader.join(chance.choice(readers))
            elif kind == 5 and chance.random() < 0.2:
                gc.collect()
            elif kind == 6 and chance.random() < 0.2:
                raise KeyError

        def take(data: bytes) -> bool:
            act()
            return chance.random() < 0.6

        socks = [pair() for _ in range(8)]
        for ours, _ in socks:
            transport: Any = Transport(ours)
            readers.append(reading.reader(transport, take, lambda _: act(), lambda _: act()))
            readers[-1].join(readers[0])
            readers[-1].resume()
        for _ in range(60):
            far = chance.choice(socks)[1]
            with contextlib.suppress(OSError):
                far.send(b"x" * chance.choice([1, 100, 100_000]))
                if chance.random() < 0.05:
                    far.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0)
        assert {*told, *unraisable} <= {KeyError, RuntimeError}
        for reader in readers:
            reader.close()
        reading.close()
        for both in socks:
            for sock in both:
                sock.close()

    run(play())


def test_a_socket_that_cannot_be_watched_is_left_to_its_transport(tmp_path: Any) -> None:
    async def play() -> None:
        reading = DirectReading(asyncio.get_running_loop())
        with open(tmp_path / "file", "wb") as file:
            transport: Any = Transport(file)  # type: ignore[arg-type]
            assert reading.reader(transport, print, print, print) is None  # type: ignore[arg-type]
        reading.close()

    run(play())


# --- the event loop, which sleeps among the sockets -------------------------------------------------------------------


class Echo(threading.Thread):
    """A peer that sends whatever it gets, until its connection ends."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self._sock = sock
        sock.setblocking(True)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._sock.recv(1000):
                self._sock.sendall(data)


@pytest.fixture(params=["led", "not led"])
def led(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Says whether a uvloop's loop sleeps among the sockets, or in its own epoll, as where it shows no libuv."""
    if request.param == "not led":
        monkeypatch.setattr("uvloop.loop.__file__", "/nowhere/loop.so")
    return request.param == "led"


def test_a_loop_is_led_where_its_libuv_is_found(led: bool) -> None:
    async def play() -> None:
        with ends() as made:
            assert made.reading.leads is led

    async def play_other() -> None:
        with ends() as made:
            assert not made.reading.leads

    run(play())
    run(play_other(), asyncio.new_event_loop)


def test_what_a_loop_has_of_its_own_is_done_while_it_sleeps_among_sockets(led: bool) -> None:
    """Has each kind of work come while nothing comes to the sockets: where one is not heard of, this hangs."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        with ends() as made:
            assert made.reading.leads is led
            await asyncio.sleep(0.02)
            assert await loop.run_in_executor(None, lambda: "thread") == "thread"
            ours, theirs = pair()
            read = loop.create_future()
            loop.add_reader(ours, lambda: read.done() or read.set_result(ours.recv(10)))
            threading.Timer(0.02, theirs.send, [b"watched"]).start()
            assert await read == b"watched"
            loop.remove_reader(ours)
            reader, writer = await asyncio.open_connection(sock=ours)
            threading.Timer(0.02, theirs.send, [b"stream"]).start()
            assert await reader.read(10) == b"stream"
            writer.close()
            await writer.wait_closed()
            theirs.close()
            done = loop.create_future()
            loop.add_signal_handler(signal.SIGUSR1, done.set_result, None)
            threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            await done
            loop.remove_signal_handler(signal.SIGUSR1)
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

    run(play())


@pytest.mark.parametrize("kind", ["soon", "later", "write", "watch", "end"])
@pytest.mark.parametrize("sends", [True, False])
def test_what_a_chunk_leads_to_is_done_at_once(led: bool, kind: str, sends: bool) -> None:
    """Has the function that takes a chunk ask for something of the event loop; nothing else wakes that."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        ours, theirs = pair()
        _, writer = await asyncio.open_connection(sock=ours)
        with ends() as made:

            def take(data: bytes) -> bool:
                if kind == "soon":
                    loop.call_soon(done.set_result, None)
                elif kind == "later":
                    loop.call_later(0.01, done.set_result, None)
                elif kind == "write":
                    writer.write(b"written")
                elif kind == "watch":
                    loop.add_writer(made.far_one, lambda: done.done() or done.set_result(None))
                else:
                    made.reader.close()
                    made.reading.close()
                    made.reading = DirectReading(loop)
                    loop.call_later(0.01, done.set_result, None)
                return sends and kind in ("soon", "later", "watch")

            heard = threading.Thread(target=lambda: (theirs.recv(10), loop.call_soon_threadsafe(done.set_result, None)))
            if kind == "write":
                theirs.setblocking(True)
                heard.start()
            made.take = take  # type: ignore[method-assign]
            transport: Any = Transport(made.one)
            made.reader.close()
            made.reader = made.reading.reader(transport, take, made.rest.append, made.over.append)  # type: ignore[assignment]
            made.reader.join(made.peer)
            made.reader.resume()
            threading.Timer(0.02, made.far_one.send, [b"one"]).start()
            await done
            if kind == "watch":
                loop.remove_writer(made.far_one)
            if kind == "write":
                heard.join()
        writer.close()
        theirs.close()

    run(play())


def test_sockets_that_never_rest_keep_nothing_else_waiting(led: bool) -> None:
    """Sends a chunk round for ever: from one far end, through both sockets, to the other far end and back."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        with ends() as made:
            made.peer.resume()
            echoes = [Echo(made.far_one), Echo(made.far_two)]
            made.two.send(b"round")
            await asyncio.sleep(0.05)
            before = len(made.taken)
            assert await loop.run_in_executor(None, lambda: "thread") == "thread"
            ours, theirs = pair()
            theirs.send(b"watched")
            read = loop.create_future()
            loop.add_reader(ours, lambda: read.done() or read.set_result(ours.recv(10)))
            assert await read == b"watched"
            loop.remove_reader(ours)
            await asyncio.sleep(0.02)
            assert len(made.taken) > before > 0
            ours.close()
            theirs.close()
            for sock in (made.far_one, made.far_two):
                sock.shutdown(socket.SHUT_RDWR)
            for echo in echoes:
                echo.join()

    run(play())


# --- a session --------------------------------------------------------------------------------------------------------


class Connected(Scene):
    """A relay between two sockets, read past their transports or not; `far_client` and `far_backend` are the other
    ends of them."""

    far_client: socket.socket
    far_backend: socket.socket

    async def connected(self, *, directly: bool, kind: str = "unix") -> Connected:
        loop = asyncio.get_running_loop()
        runtime: Any = self.relay._runtime
        runtime.reading = self.reading = DirectReading(loop) if directly else None
        self.far_client = await self._connect(self.client, kind)
        self.far_backend = await self._connect(self.backend, kind)
        for said in (
            AUTHENTICATION_OK + parameter("client_encoding", "UTF8") + KEY_DATA + ready(),
            complete("SET") + ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready(),
            message(b"V", b"\xff\xff\xff\xff") + ready(),
        ):
            self.far_backend.send(said)
            await self.settle()
        assert self.relay.life is Life.READY
        assert (self.client.reader is not None) is directly and (self.backend.reader is not None) is directly
        drain(self.far_client), drain(self.far_backend)
        return self

    async def _connect(self, endpoint: Endpoint, kind: str) -> socket.socket:
        protocol: Any = endpoint
        loop = asyncio.get_running_loop()
        ours, theirs = pair(kind)
        connect: Any = loop.create_unix_connection if kind == "unix" else loop.create_connection
        await connect(lambda: protocol, sock=ours)
        return theirs

    async def settle(self) -> None:
        await turns(6)

    async def play(self, said: bytes, answered: bytes) -> tuple[bytes, bytes]:
        """Plays a chunk of each; gives what came of both at the other ends."""
        if said:
            self.far_client.send(said)
            await self.settle()
            await self.journal.write()
            await self.settle()
        if answered:
            self.far_backend.send(answered)
            await self.settle()
            await self.journal.write()
            await self.settle()
        return drain(self.far_backend), drain(self.far_client)

    def told(self) -> tuple[object, ...]:
        """Gives what the session remembers and what the log was told."""
        session, pipeline, journal = self.relay.session, self.relay.session.pipeline, self.journal
        events = [
            (event.event, event.outcome, event.statement_no, event.calls)
            for event in (*journal.attempts, *journal.kept, *journal.recorded)
        ]
        return (
            events, self.relay.life, session.phase, session.idle, session.state.transaction_status, session.texts(), pipeline.due,
            pipeline.started, pipeline.entered, pipeline.cycles, pipeline.skipping, self.relay.interpreter.client_waits,
        )  # fmt: skip

    async def end(self) -> None:
        self.client.abort()
        self.backend.abort()
        await self.settle()
        if self.reading is not None:
            self.reading.close()
        self.far_client.close()
        self.far_backend.close()


async def scene(*, directly: bool = True, kind: str = "unix") -> Connected:
    return await Connected().connected(directly=directly, kind=kind)


MOVES = st.lists(st.tuples(st.sampled_from(EXCHANGES), st.sampled_from([10_000, 10_000, 40])), max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MOVES)
def test_a_session_read_past_its_transports_does_what_others_do(
    moves: list[tuple[tuple[bytes, bytes], int]],
) -> None:
    async def play() -> None:
        both = [await scene(directly=directly) for directly in (True, False)]
        prepared = parse("SELECT 1", "h") + parse(SECRET_TEXT, "s") + SYNC
        for (said, answered), size in [((prepared, PARSE_COMPLETE * 2 + ready()), 10_000), *moves]:
            for start in range(0, max(len(said), len(answered)), size):
                part = slice(start, start + size)
                one, other = [await made.play(said[part], answered[part]) for made in both]
                assert one == other and both[0].told() == both[1].told()
            if both[0].relay.session.phase is Phase.CLOSED or both[0].relay.life is not Life.READY:
                break
        for made in both:
            await made.end()

    run(play())


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_session_of_which_one_side_is_in_tls_is_relayed(side: str) -> None:
    async def play() -> None:
        made = await scene(directly=True)
        secured: Any = getattr(made, side)
        secured.reader.close()
        secured.reader = None
        secured.transport.resume_reading()
        for _ in range(3):
            assert await made.play(query("SELECT 1"), complete() + ready()) == (query("SELECT 1"), complete() + ready())
        await made.end()

    run(play())


def test_a_transport_in_tls_has_no_socket_of_its_own() -> None:
    async def play() -> None:
        reading: Any = DirectReading(asyncio.get_running_loop())
        ours, theirs = pair()

        class Secured(Transport):
            def get_extra_info(self, name: str) -> Any:
                return self if name == "ssl_object" else super().get_extra_info(name)

        assert reading.reader(Secured(ours), print, print, print) is None
        assert reading.reader(Transport(ours), print, print, print) is not None
        reading.close()
        ours.close()
        theirs.close()

    run(play())


@pytest.mark.parametrize("directly", [True, False])
def test_a_value_waits_for_the_log(directly: bool) -> None:
    async def play() -> None:
        made = await scene(directly=directly)
        made.far_client.send(query(HIDDEN))
        await made.settle()
        answer = testified("hidden") + row("value") + complete() + ready()
        made.far_backend.send(answer)
        await made.settle()
        assert drain(made.far_client) == b"" and len(made.journal.kept) == 1
        made.far_backend.send(parameter("a", "b"))
        await made.settle()
        assert drain(made.far_client) == b""
        await made.journal.write()
        await made.settle()
        assert drain(made.far_client) == row("value") + complete() + ready() + parameter("a", "b")
        await made.end()

    run(play())


@pytest.mark.parametrize("directly", [True, False])
def test_a_chunk_does_not_overtake_one_that_the_transport_has(directly: bool) -> None:
    async def play() -> None:
        made = await scene(directly=directly)
        made.backend.write(b"first")
        made.client.write_coalesced(b"before ")
        made.far_client.send(query("SELECT 1"))
        await made.settle()
        assert drain(made.far_backend) == b"first" + query("SELECT 1")
        made.far_backend.send(complete() + ready())
        await made.settle()
        assert drain(made.far_client) == b"before " + complete() + ready()
        await made.end()

    run(play())


@pytest.mark.parametrize("directly", [True, False])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_does_not_read_stops_its_backend(
    directly: bool, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def play() -> None:
        made = await scene(directly=directly)
        made.far_client.send(query("SELECT 1"))
        await made.settle()
        answer = ROW_DESCRIPTION + row("x" * 1000) * (MUCH // 1000) + complete() + ready()
        sent, arrived = 0, b""
        blocked = 0
        while blocked < 5:
            try:
                sent += made.far_backend.send(answer[sent : sent + 100_000])
                blocked = 0
            except BlockingIOError:
                blocked += 1
            await made.settle()
        assert sent < MUCH // 2 and not made.backend._reading
        while len(arrived) < len(answer):
            arrived += drain(made.far_client)
            with contextlib.suppress(BlockingIOError):
                sent += made.far_backend.send(answer[sent : sent + 100_000])
            await made.settle()
        assert arrived == answer and made.relay.session.idle
        await made.end()

    run(play(), loop)


@pytest.mark.parametrize("directly", [True, False])
def test_a_client_that_ends_is_answered(directly: bool) -> None:
    async def play() -> None:
        made = await scene(directly=directly)
        made.far_client.send(query("SELECT 1"))
        made.far_client.shutdown(socket.SHUT_WR)
        await made.settle()
        assert drain(made.far_backend) == query("SELECT 1")
        assert select.select([made.far_backend], [], [], 0)[0], "the end goes on"
        made.far_backend.send(complete() + ready())
        made.far_backend.close()
        await made.settle()
        assert drain(made.far_client) == complete() + ready() and made.relay.life is Life.OVER
        await made.end()

    run(play())


@pytest.mark.parametrize("directly", [True, False])
def test_what_a_broken_backend_may_have_run_is_lost(directly: bool) -> None:
    async def play() -> None:
        made = await scene(directly=directly, kind="tcp")
        made.far_client.send(query(SECRET))
        await until(lambda: made.journal.attempts)
        await made.journal.write()
        made.far_backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.far_backend.close()
        await until(lambda: made.relay.life is Life.OVER)
        assert made.backend.broke and made.relay.life is Life.OVER
        assert [event.outcome for event in made.journal.recorded if event.event == "outcome"] == ["lost"]
        await made.end()

    run(play())


@pytest.mark.parametrize("directly", [True, False])
def test_a_client_that_is_gone_has_its_backend_read_to_the_end(directly: bool) -> None:
    async def play() -> None:
        made = await scene(directly=directly)
        made.far_client.send(query(HIDDEN))
        await made.settle()
        made.far_client.close()
        await made.settle()
        made.far_backend.send(testified("hidden") + row("value") + complete() + ready())
        await made.settle()
        assert len(made.journal.kept) == 1
        await made.end()

    run(play())


@pytest.mark.parametrize("directly", [True, False])
def test_an_unexpected_error_ends_the_session(directly: bool) -> None:
    async def play() -> None:
        made = await scene(directly=directly)

        def fails(*given: object) -> None:
            raise RuntimeError

        made.journal.commit = fails  # type: ignore[method-assign]
        made.far_client.send(query(SECRET))
        await made.settle()
        assert drain(made.far_client)[:1] == b"E" and made.relay.life is not Life.READY
        await made.end()

    run(play())


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_session_that_lost_something_ends_and_hears_no_more(side: str) -> None:
    async def play() -> None:
        told = errors_told()
        made = await scene()
        far, lost = getattr(made, f"far_{side}"), getattr(made, side)
        # By then libuv has let go of both sockets, and the turn counted below reads at once.
        await made.play(query("SELECT 0"), complete() + ready())
        assert (await made.play(query("SELECT 1"), b""))[0] == query("SELECT 1")
        peer = made.backend if side == "client" else made.client
        peer.reader.close()
        far.send(query("SELECT 2") if side == "client" else complete() + ready())
        await turns(1)
        far.send(query("SELECT 3"))
        await made.settle()
        assert told == [RuntimeError] and lost.is_lost and made.relay.life is not Life.READY
        assert b"SELECT" not in drain(made.far_backend) + drain(made.far_client)
        await made.end()

    run(play())


def test_an_event_loop_is_not_woken_for_a_socket_that_is_read_past_its_transport() -> None:
    """libuv takes a socket that it reads no more out of its epoll only if it finds something there."""

    async def play() -> None:
        loop: Any = asyncio.get_running_loop()
        made = await scene()
        for _ in range(2):
            await made.play(query("SELECT 1"), complete() + ready())
        for far, data in ((made.far_client, query("SELECT 2")), (made.far_backend, complete() + ready())):
            far.send(data)
            assert select.select([loop._get_backend_id()], [], [], 0)[0] == []
            await made.settle()
        assert drain(made.far_client) == complete() + ready()
        await made.end()

    run(play())


@pytest.mark.parametrize("size", [0, 100])
def test_nothing_is_sent_past_a_transport_that_is_being_closed(size: int) -> None:
    async def play() -> None:
        made = await scene()
        transport: Any = made.backend.transport
        made.backend.transport = SimpleNamespace(
            get_write_buffer_size=lambda: size, is_closing=lambda: True, abort=transport.abort
        )  # type: ignore[assignment]
        assert not made.backend.takes_directly()
        made.backend.transport = transport
        assert made.backend.takes_directly()
        await made.end()

    run(play())


def test_a_socket_is_let_go_of_whatever_its_last_bytes_do() -> None:
    """A backend's last words are read when its connection broke; nothing may be sent to its socket's number then."""

    class Stop(BaseException):
        pass

    async def play() -> None:
        told = errors_told()
        made = await scene()
        directly: list[bool] = []

        def take(data: bytes) -> None:
            directly.append(made.backend.takes_directly())
            raise Stop

        receiver = made.backend.receiver
        assert receiver is not None
        made.backend.attach(receiver, take)
        made.backend.pause(True)
        made.far_backend.send(b"last")
        await made.settle()
        transport: Any = made.backend.transport
        transport._force_close(ConnectionResetError())
        await made.settle()
        assert directly == [False] and told == [Stop]
        assert made.backend.is_lost and made.backend.reader is None and made.relay.life is Life.OVER
        await made.end()

    run(play())
