"""Checks what the relay does with the effects of its session's interpreter: no socket, a journal that answers when it
is told."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import capture_logs

from secretproxy.audit.journal import LogUnavailableError
from secretproxy.config import BackendSettings, Host, ListenSettings
from secretproxy.detect import Detector, Verdict
from secretproxy.proxy.backend.connect import Target
from secretproxy.proxy.client.endpoint import BackendEndpoint, ClientEndpoint
from secretproxy.proxy.client.relay import Life, Relay
from secretproxy.proxy.runtime import BackendProcesses
from secretproxy.session.session import Session, new_identity
from secretproxy.session.step import Limits
from secretproxy.session.testimony import POOLER
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError
from tests.unit.playbook import (
    AUTHENTICATION_OK,
    FLUSH,
    KEY_DATA,
    KEYS,
    PID,
    ROW_DESCRIPTION,
    START,
    TERMINATE,
    complete,
    message,
    parameter,
    query,
    ready,
    row,
    testified,
)

SECRET = "SELECT encrypted_secrets.secrets_getter('5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44'::uuid, 'key'::text, 'v'::text)"
HIDDEN = "SELECT * FROM some_view"


class Transport:
    """A connection: what was written to it, and whether it is read from."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.half_closed = self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> bytes:
        taken, self.written = self.written, b""
        return taken

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 5000) if name == "peername" else None

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Journal:
    """Takes events, and says that they are written when it is told to."""

    def __init__(self) -> None:
        self.attempts: list[Any] = []
        self.kept: list[Any] = []
        self.recorded: list[Any] = []
        self.available = True
        self.backlog = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._waiters: list[Any] = []
        self._keeps: list[Any] = []

    def append(self, events: list[Any], *, wait: bool) -> None:
        assert not wait
        self.recorded += events

    def commit(self, events: list[Any], waiter: Any) -> None:
        if not self.available:
            raise LogUnavailableError
        self.attempts += events
        self._waiters.append(waiter)

    def hold(self, events: list[Any], waiter: Any) -> None:
        self.attempts += events
        self._waiters.append(waiter)

    def keep_for(self, events: list[Any], waiter: Any) -> None:
        self.kept += events
        self._keeps.append(waiter)

    def keep(self, events: list[Any]) -> asyncio.Future[None]:
        self.kept += events
        return self._future()

    def _future(self) -> asyncio.Future[None]:
        self._waiting.append(asyncio.get_running_loop().create_future())
        return self._waiting[-1]

    async def write(self, error: Exception | None = None) -> None:
        """Writes all that waits, or fails to."""
        waiting, self._waiting = self._waiting, []
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter(None if error is None else str(error) or "fault")
        keeps, self._keeps = self._keeps, []
        for waiter in keeps:
            waiter(None if error is None else str(error) or "fault")
        for future in waiting:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        await turns()


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


class Scene:
    """A relay between two connections that are none."""

    def __init__(self, *, hold_timeout: float = 30.0) -> None:
        self.journal = Journal()
        self.closed: list[ClientEndpoint] = []
        self.cancelled: list[bytes] = []
        self.spawned: list[Any] = []
        nothing: Any = SimpleNamespace(
            join=lambda session: None, leave=lambda session: None,
            changed=lambda session: None, unannounced=lambda session: None,
        )  # fmt: skip
        self.admission = SimpleNamespace(
            draining=False, closed=lambda client, lingers: self.closed.append(client), gone=lambda client: None
        )
        self.metrics = SimpleNamespace(
            attempts=Counter(), refused=Counter(), hold=SimpleNamespace(observe=lambda seconds: None),
            count_testified=lambda events: False,
        )  # fmt: skip
        self.limits = SimpleNamespace(hold_timeout=hold_timeout)
        runtime = SimpleNamespace(
            journal=self.journal,
            metrics=self.metrics,
            admission=self.admission,
            catalogs=nothing,
            proofs=nothing,
            processes=BackendProcesses(),
            reading=None,
            hosts=SimpleNamespace(watching=False, attrs="any"),
            cancels=SimpleNamespace(
                learn=lambda key, target, session: None, forget=lambda session: None,
                send=lambda packet, session: self.cancelled.append(packet),
            ),
            spawn=self.spawned.append,
            parsers=SimpleNamespace(verdict=self.judged),
            settings=SimpleNamespace(limits=self.limits, log=SimpleNamespace(sessions=False)),
        )  # fmt: skip
        self.to_client, self.to_backend = Transport(), Transport()
        self.client, self.backend = ClientEndpoint(ListenSettings()), BackendEndpoint(BackendSettings())
        self.client.use(cast(asyncio.Transport, self.to_client))
        self.backend.use(cast(asyncio.Transport, self.to_backend))
        session = Session(new_identity("app", "app", None), KEYS, Detector(), Limits())
        host = Host(host="192.0.2.2", port=5432)
        self.relay = Relay(cast(Any, runtime), self.client, self.backend, session, Target(host, host.host))

    async def judged(self, detector: Detector, text: bytes, codec: str, strings: int, account: object) -> Verdict:
        """Judges a text by its words, as where no process can parse it."""
        return detector.by_words(text, codec)

    def logged_in(self) -> Scene:
        for said in (
            AUTHENTICATION_OK + parameter("client_encoding", "UTF8") + KEY_DATA + ready(),
            complete("SET") + ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready(),
            message(b"V", b"\xff\xff\xff\xff") + ready(),
        ):
            self.backend.data_received(said)
        assert self.relay.life is Life.READY
        self.to_client.take(), self.to_backend.take()
        return self

    @property
    def fatal(self) -> bytes:
        """Gives the SQLSTATE of the error that the client was told last."""
        said = self.to_client.take()
        return messages.field(said, 0, len(said), 0x43) if said[:1] == b"E" else b""


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def inc(self, by: int = 1) -> None:
        self.total += by

    count = inc


# --- what waits for the log -------------------------------------------------------------------------------------------


async def test_what_needs_nothing_goes_on() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query("SELECT 1"))
    assert scene.to_backend.take() == query("SELECT 1")
    scene.backend.data_received(complete() + ready())
    assert scene.to_client.take() == complete() + ready()


async def test_a_call_goes_on_once_the_log_has_its_attempt() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(SECRET))
    assert [event.event for event in scene.journal.attempts] == ["attempt"] and scene.to_backend.take() == b""
    assert scene.metrics.attempts.total == 1 and scene.to_client.reading, "it mostly has nothing to say meanwhile"
    scene.client.data_received(query("SELECT 1"))
    assert scene.to_backend.take() == b"" and not scene.to_client.reading
    await scene.journal.write()
    assert scene.to_backend.take() == query(SECRET) + query("SELECT 1") and scene.to_client.reading


async def test_a_verdict_from_elsewhere_is_kept_by_whoever_knows_what_it_is() -> None:
    """One by words, because a process failed, would be what all sessions have of this text from then on."""
    scene, text = Scene().logged_in(), f"{SECRET}, {'+' * 300} 1"
    scene.client.data_received(query(text))
    await scene.spawned.pop()
    assert [event.owner_id for event in scene.journal.attempts] == [None]
    assert scene.relay.session.detector.cached(text.encode(), "utf-8") is None


async def test_a_call_that_the_log_cannot_take_is_refused_in_a_turn_of_its_own() -> None:
    scene = Scene().logged_in()
    scene.journal.available = False
    scene.client.data_received(query(SECRET) + query("SELECT 1"))
    refused = scene.to_backend.take()
    assert SECRET.encode() not in refused and scene.metrics.refused.total == 1
    assert not scene.to_client.reading
    await turns()
    assert scene.to_client.reading


async def test_a_call_whose_attempt_the_log_loses_is_refused() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(SECRET))
    await scene.journal.write(LogUnavailableError())
    assert SECRET.encode() not in scene.to_backend.take() and scene.metrics.refused.total == 1


async def test_an_answer_is_held_until_the_log_has_the_call() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(HIDDEN))
    scene.backend.data_received(testified("hidden") + row("value"))
    assert [event.event for event in scene.journal.kept] == ["call"] and scene.to_client.take() == b""
    scene.backend.data_received(complete() + ready())
    assert scene.to_client.take() == b"" and not scene.to_backend.reading
    await scene.journal.write()
    assert scene.to_client.take() == row("value") + complete() + ready() and scene.to_backend.reading
    assert [event.outcome for event in scene.journal.recorded] == ["ok"]


async def test_an_answer_that_is_held_too_long_ends_the_session() -> None:
    scene = Scene(hold_timeout=0.0).logged_in()
    scene.client.data_received(query(HIDDEN))
    scene.backend.data_received(testified("hidden") + row("value"))
    while scene.relay.life is Life.READY:
        await asyncio.sleep(0)
    assert scene.relay.life is Life.ORPHANED and scene.fatal == b"58030"
    await scene.journal.write()
    assert scene.to_client.take() == b"", "the value stays here"


async def test_each_call_that_is_held_has_its_own_time() -> None:
    """One timer is for all of a session's: what it was set for is mostly over when it looks."""
    scene = Scene().logged_in()
    for clock in (1, 2):
        scene.client.data_received(query(HIDDEN))
        scene.backend.data_received(testified("hidden", clock=START + clock) + row("value"))
        assert scene.to_client.take() == b""
        scene.relay._log._look_at_hold()
        assert scene.relay.life is Life.READY, "it has not been held for long"
        await scene.journal.write()
        assert scene.to_client.take() == row("value")
        scene.backend.data_received(complete() + ready())
        scene.to_client.take()
    scene.limits.hold_timeout = 0.0
    scene.relay._log._look_at_hold()
    assert scene.relay.life is Life.READY, "nothing is held"
    scene.client.data_received(query(HIDDEN))
    scene.backend.data_received(testified("hidden", clock=START + 3) + row("value"))
    scene.relay._log._look_at_hold()
    assert scene.relay.life is Life.ORPHANED and scene.fatal == b"58030"
    await scene.journal.write()
    assert scene.to_client.take() == b"", "the value stays here"


# --- how a session ends -----------------------------------------------------------------------------------------------


async def test_a_client_that_ends_is_answered_to_the_end() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query("SELECT 1"))
    assert scene.client.eof_received(), "the connection stays open for the answer"
    assert scene.to_backend.half_closed and scene.relay.life is Life.READY
    scene.backend.data_received(complete() + ready())
    assert scene.to_client.take() == complete() + ready()
    scene.backend.connection_lost(None)
    assert scene.relay.life is Life.OVER and scene.to_client.closed and scene.closed == [scene.client]


async def test_a_client_that_ends_while_its_call_waits_is_answered_too() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(SECRET))
    assert scene.client.eof_received() and not scene.to_backend.half_closed
    await scene.journal.write()
    assert scene.to_backend.take() == query(SECRET) and scene.to_backend.half_closed


async def test_a_backend_that_ends_while_its_answer_is_held_has_it_sent_first() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(HIDDEN))
    scene.backend.data_received(testified("hidden") + row("value"))
    assert not scene.backend.eof_received()
    assert scene.relay.life is Life.READY
    await scene.journal.write()
    assert scene.to_client.take() == row("value") and scene.relay.life is Life.OVER


async def test_a_client_that_is_lost_leaves_its_backend_to_be_read() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(HIDDEN))
    scene.client.connection_lost(None)
    assert scene.relay.life is Life.ORPHANED and scene.closed == []
    assert scene.to_backend.take() == query(HIDDEN) + TERMINATE and scene.to_backend.half_closed
    scene.backend.data_received(testified("hidden") + row("value") + complete() + ready())
    assert [event.event for event in scene.journal.kept] == ["call"] and scene.to_client.take() == b""
    assert scene.relay.life is Life.OVER and scene.closed == [scene.client]


async def test_an_idle_sessions_backend_is_not_read_on() -> None:
    scene = Scene().logged_in()
    scene.client.connection_lost(None)
    assert scene.relay.life is Life.OVER and scene.to_backend.closed and scene.cancelled == []


async def test_a_session_that_is_terminated_cancels_what_runs() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query(HIDDEN))
    scene.relay.terminate("57P01", "it ends")
    assert scene.fatal == b"57P01" and len(scene.cancelled) == 1
    scene.relay.terminate("XX000", "it has ended")
    assert scene.to_client.take() == b""
    scene.relay.abort()
    assert scene.to_backend.aborted and scene.relay.life is Life.OVER and scene.closed == [scene.client]


async def test_a_shutdown_ends_an_idle_session_as_a_backend_does() -> None:
    scene = Scene().logged_in()
    assert scene.relay.idle
    scene.relay.shut_down()
    assert scene.fatal == b"57P01" and scene.to_backend.take() == TERMINATE and scene.relay.life is Life.OVER
    assert scene.to_client.half_closed and not scene.to_client.closed, "it may read its last words first"


async def test_a_draining_proxy_ends_a_session_at_the_end_of_its_statement() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query("SELECT 1"))
    scene.admission.draining = True
    scene.relay.drain()
    scene.backend.data_received(complete())
    assert scene.relay.life is Life.READY
    scene.backend.data_received(ready())
    assert scene.relay.life is Life.OVER and scene.to_client.take().startswith(complete() + ready())


async def test_a_backend_that_does_not_speak_the_protocol_is_cut_off() -> None:
    scene = Scene().logged_in()
    scene.client.data_received(query("SELECT 1"))
    scene.backend.data_received(b"!\0\0\0\4")
    assert scene.fatal == b"08P01" and scene.to_backend.aborted and scene.relay.life is Life.OVER


async def test_a_backend_that_ends_before_it_has_said_anything() -> None:
    scene = Scene()
    scene.backend.eof_received()
    assert scene.fatal == b"08006" and scene.relay.life is Life.OVER


async def test_an_error_ends_the_session_and_is_told_by_its_kind() -> None:
    scene = Scene().logged_in()

    def broken(events: list[Any], waiter: Any) -> None:
        raise MemoryError("secret")

    scene.journal.commit = broken  # type: ignore[method-assign]
    with capture_logs() as said:
        scene.client.data_received(query(SECRET))
    assert scene.fatal == b"XX000" and scene.to_backend.take() == TERMINATE, "nothing of the statement"
    assert "secret" not in str(said) and said[0]["kind"] == "MemoryError"


async def test_a_violation_names_the_setting_that_rules_it() -> None:
    """A violation may name none: no setting makes a testimony shorter."""
    for violation, setting in ((POOLER, "backend.hosts"), (ProtocolViolationError("too long", "58030"), None)):
        scene = Scene().logged_in()
        with capture_logs() as said:
            scene.relay.end_by_backend(violation)
        assert said[0]["event"] == "session ended" and said[0].get("setting") == setting
        assert scene.fatal == violation.sqlstate.encode()


async def test_a_process_behind_a_pooler_is_free_again_once_its_session_has_ended() -> None:
    scene = Scene().logged_in()
    other = object()
    assert scene.relay.owns_process()
    processes: Any = scene.relay._runtime.processes
    process = next(iter(processes._owners))
    assert not processes.take(process, other)
    scene.client.connection_lost(None)
    assert processes.take(process, other)


# --- backpressure -----------------------------------------------------------------------------------------------------


async def test_a_side_whose_peer_does_not_read_is_not_read_from() -> None:
    scene = Scene().logged_in()
    scene.client.pause_writing()
    assert not scene.to_backend.reading
    scene.client.resume_writing()
    assert scene.to_backend.reading
    scene.backend.pause_writing()
    assert not scene.to_client.reading
    scene.client.data_received(query(SECRET))
    scene.client.data_received(query(SECRET))
    scene.backend.resume_writing()
    assert not scene.to_client.reading, "it still waits for the log"
    await scene.journal.write()
    await scene.journal.write()
    assert scene.to_client.reading


async def test_a_client_far_ahead_has_its_answers_flushed() -> None:
    scene = Scene().logged_in()
    chunk = query("SELECT 1") * 256
    for _ in range(5):
        scene.client.data_received(chunk)
    assert scene.to_backend.take() == chunk * 5 + FLUSH and not scene.to_client.reading
    scene.backend.data_received((complete() + ready()) * 1000)
    assert scene.to_client.reading


async def called_in(scene: Scene, *, behind: bytes = b"") -> None:
    """Plays a call whose attempt is written, and the beginning of its answer with the testimony at its end."""
    scene.client.data_received(query(SECRET))
    await scene.journal.write()
    scene.backend.data_received(ROW_DESCRIPTION + testified("key", clock=START + 2) + behind)


async def test_what_comes_ahead_of_a_testimony_goes_with_what_comes_behind_it() -> None:
    scene = Scene().logged_in()
    await called_in(scene)
    assert scene.to_client.take() == b""
    answer = row("value") + complete() + ready()
    scene.backend.data_received(answer)
    assert scene.to_client.take() == ROW_DESCRIPTION + answer


async def test_it_does_not_wait_for_more_than_a_moment() -> None:
    scene = Scene().logged_in()
    await called_in(scene)
    async with asyncio.timeout(5):
        while not scene.to_client.written:
            await asyncio.sleep(0.001)
    assert scene.to_client.take() == ROW_DESCRIPTION
    # The next one is waited for again.
    scene.backend.data_received(row("value") + testified("key", clock=START + 3))
    assert scene.to_client.take() == b""
    async with asyncio.timeout(5):
        while not scene.to_client.written:
            await asyncio.sleep(0.001)
    assert scene.to_client.take() == row("value")


async def test_it_goes_out_before_the_session_ends() -> None:
    for end in (lambda scene: scene.backend.eof_received(), lambda scene: scene.relay.terminate("XX000", "over")):
        scene = Scene().logged_in()
        await called_in(scene)
        assert scene.to_client.take() == b""
        end(scene)
        assert scene.to_client.take().startswith(ROW_DESCRIPTION)


async def test_a_testimony_that_is_not_the_end_of_what_came_lets_it_go_at_once() -> None:
    scene = Scene().logged_in()
    await called_in(scene, behind=row("value"))
    assert scene.to_client.take() == ROW_DESCRIPTION + row("value")
