"""Drives a session between a client that says anything and a model of a backend, step by step, and checks each.

What must hold, whatever the order in which the network and the log move:
- what the client says reaches the backend whole and in order, nothing before its attempts are in the log but a
  statement that only reads;
- no row of a secret's answer reaches the client before the log has its call, as attempt, call or access;
- what the backend says reaches the client but for testimony and for answers to the proxy's own messages;
- each testimony is counted in exactly one outcome; one of a statement that names its function needs no event of its
own;
- each statement in the log has one outcome for each time that it ended; nothing is left over in the end, no state
without a way on."""

from __future__ import annotations

import uuid
from collections import deque
from types import SimpleNamespace

from tests.fuzz.model import NAMED, SECRET, VIEW, Backend
from tests.support.effects import SocketEffects, given
from tests.unit.playbook import (
    AUTHENTICATION_OK,
    COPY_DONE,
    FLUSH,
    FUNCTION_CALL,
    KEY,
    KEY_DATA,
    OWNER,
    PID,
    ROW_DESCRIPTION,
    START,
    SYNC,
    bind,
    close,
    complete,
    describe,
    execute,
    message,
    parameter,
    parse,
    query,
    ready,
    row,
)

TEXTS = [
    "SELECT 1", "", "broken", "SELECT 1/0", SECRET % "abc", SECRET % "def", VIEW, NAMED, "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a",
    "ROLLBACK TO a", "RESET ALL", "DISCARD ALL", "PREPARE q AS " + SECRET % "sql", "EXECUTE q", "DEALLOCATE q",
    "DECLARE c CURSOR FOR " + SECRET % "sql", "FETCH c", "CLOSE c", SECRET % "abc" + "; SELECT 1", SECRET % "abc" + "; SELECT 1/0",
]  # fmt: skip
STATEMENTS = ["", "a", "b"]
PORTALS = ["", "p", "c"]
COPY_FAIL = message(b"f", b"no\0")
COPY = "COPY t FROM STDIN"
SECRET_ROW = row("value")


def copied(bad: bool) -> bytes:
    return message(b"d", b"row\n") + (message(b"d", b"bad") if bad else b"")


def values(text: str) -> list[bytes]:
    return [str(OWNER).encode(), b"par"] if text == NAMED else []


# What a client may say, as one piece that no other message comes between.
SAYINGS: list[bytes] = [
    *(query(text) for text in TEXTS),
    *(parse(text, name) for text in TEXTS if "; " not in text for name in STATEMENTS),
    *(bind(given, portal=portal, statement=name) for portal in PORTALS for name in STATEMENTS for given in ([], values(NAMED))),
    *(execute(portal, rows) for portal in PORTALS for rows in (0, 1)),
    *(close(kind, name) for kind in "SP" for name in ("", "a", "p", "c")),
    *(describe(kind, name) for kind, name in (("S", ""), ("S", "a"), ("P", ""), ("P", "p"))),
    SYNC, SYNC, SYNC, FLUSH, FUNCTION_CALL, COPY_DONE, COPY_FAIL, message(b"d", b"stray"),
    *(query(COPY) + copied(bad) + end for bad in (False, True) for end in (COPY_DONE, COPY_FAIL)),
    *(
        parse(COPY) + bind() + execute() + sync + copied(bad) + end + SYNC
        for sync in (b"", SYNC) for bad in (False, True) for end in (COPY_DONE, COPY_FAIL)
    ),
    # The common ones, as drivers say them.
    *(parse(text) + bind(values(text)) + execute() + SYNC for text in (SECRET % "abc", NAMED, VIEW, "SELECT 1", "BEGIN", "ROLLBACK")),
    *(parse(text) + bind() + execute(rows=1) + FLUSH for text in (SECRET % "abc", VIEW)),
]  # fmt: skip


# What leads somewhere together: statements that others use, errors that what follows is skipped behind, ends of
# transactions.
LEADING: list[bytes] = [
    close("S", "a") + parse(SECRET % "abc", "a") + SYNC,
    close("S", "a") + parse("SELECT 1", "a") + SYNC,
    parse(SECRET % "def") + SYNC,
    bind(statement="a") + execute() + SYNC,
    bind() + execute() + SYNC,
    bind(statement="a") + execute(rows=1) + FLUSH,
    execute(rows=1) + SYNC,
    bind(portal="p", statement="a") + execute("p", rows=1) + SYNC,
    execute("p") + SYNC,
    close("P", "p") + SYNC,
    *(
        bind(statement="missing") + skipped + SYNC
        for skipped in (parse("SELECT 1", "a"), parse("SELECT 1"), close("S", "a"), close("P", "p"), bind(), bind(portal="p"))
    ),
    *(query(text) for text in ("SELECT 1", SECRET % "abc", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a", "RESET ALL")),
    query("RESET ALL") + query("BEGIN"),
    query("DISCARD ALL") + parse(SECRET % "abc", "a") + SYNC,
    query("BEGIN") + query("DECLARE c CURSOR FOR " + SECRET % "sql") + query("FETCH c"),
    parse(COPY) + bind() + execute() + SYNC + copied(False) + COPY_DONE + SYNC,
    parse(COPY) + bind() + execute() + SYNC + copied(True) + COPY_DONE + SYNC,
    query(COPY) + copied(True) + COPY_DONE,
]  # fmt: skip


class Harness(SocketEffects):
    """`code`: the modules of a session, compiled or pure (see pure.py). `strict`: a name in a statement's text must
    have been attempted."""

    def __init__(self, code: SimpleNamespace, *, strict: bool = True, takes_accesses: bool = True) -> None:
        self.code = code
        self.strict = strict
        self.session = code.Session(
            code.Identity(uuid.UUID(int=1), "app", "app"), code.Keys({1: KEY}), code.Detector(), code.Limits(), None,
            code.LogState(),
        )  # fmt: skip
        self.session.state.log.takes_accesses = takes_accesses
        self.said = b""
        self.unsent = b""
        self.forwarded = b""
        self.received = b""
        self.backend = Backend()
        self.events: list[object] = []
        # Names of secrets in the log.
        self.logged: set[str] = set()
        self._to_backend: deque[tuple[bytes, bool]] = deque()
        # What the log has not taken yet.
        self._client_waits: object | None = None
        self._backend_waits: object | None = None
        # Whether the rest of a client's chunk is to be looked at in a later turn.
        self._later = False
        self.interpreter = code.Interpreter(self.session, *given(self))
        for chunk in (
            AUTHENTICATION_OK + parameter("client_encoding", "UTF8") + KEY_DATA + ready(),
            ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready(),
            message(b"V", b"\xff\xff\xff\xff") + ready(),
        ):
            self.interpreter.from_backend(chunk)
        assert self.session.idle and self.interpreter.ready

    # --- moves -------------------------------------------------------------------------------------------------

    def say(self, piece: bytes) -> None:
        self.said += piece
        self.unsent += piece

    def send(self, size: int) -> None:
        """Lets the client's next bytes arrive."""
        chunk, self.unsent = self.unsent[:size], self.unsent[size:]
        if chunk:
            self.interpreter.from_client(chunk)
        self._turn()

    def _turn(self) -> None:
        """Does what was left for a later turn of the event loop."""
        while self._later:
            self._later = False
            self.interpreter.resume_client()

    def run(self, size: int) -> None:
        """Lets the backend read on, up to so many bytes."""
        while self._to_backend and size > 0 and not self.backend.ended:
            data, injected = self._to_backend.popleft()
            if not injected and len(data) > size:
                self._to_backend.appendleft((data[size:], False))
                data = data[:size]
            self.backend.feed(data, injected=injected)
            size -= len(data)

    def deliver(self, size: int) -> None:
        """Lets the backend's next bytes arrive."""
        chunk = bytes(self.backend.out[:size])
        del self.backend.out[:size]
        if chunk:
            self.interpreter.from_backend(chunk)
        self._turn()

    def log(self, which: int) -> None:
        """Lets the log take what one side waits for."""
        if which % 2 and self._client_waits is not None:
            step, self._client_waits = self._client_waits, None
            self._written(step.commit)  # type: ignore[attr-defined]
            self.interpreter.attempts_committed()
        elif not which % 2 and self._backend_waits is not None:
            step, self._backend_waits = self._backend_waits, None
            self._written(step.commit)  # type: ignore[attr-defined]
            self.interpreter.testimony_committed()
        self._turn()

    # --- effects: what the interpreter asks for (session/interpreter.py) ---------------------------------------

    def send_to_backend(self, data: bytes) -> None:
        if data:
            self.forwarded += data
            assert self.said.startswith(self.forwarded)
            self._to_backend.append((data, False))

    def send_to_client_soon(self, data: bytes) -> None:
        self.send_to_client(data)

    def send_to_client(self, data: bytes) -> None:
        if self.interpreter.ready:
            self.received += data
            assert self.backend.visible.startswith(self.received)
            rows = self.received.count(SECRET_ROW)
            assert set(self.backend.answered[:rows]) <= self.logged, "an answer went on before the log had its call"

    def inject(self, data: bytes) -> None:
        if self.interpreter.ready:
            self._to_backend.append((data, True))

    def flush_backend(self) -> None:
        self._to_backend.append((FLUSH, True))

    def record(self, events: list[object]) -> None:
        self._written(events)

    def _written(self, events: list[object]) -> None:
        """The log has these."""
        self.events += events
        self.logged.update(name for event in events for name in event.secret_names or ())  # type: ignore[attr-defined]

    def commit_attempts(self, step: object) -> None:
        assert isinstance(step, self.code.Step) and step.violation is None and step.parse is None
        self._client_waits = step

    def commit_testimony(self, step: object) -> None:
        assert isinstance(step, self.code.Step)
        self._backend_waits = step

    def commit_access(self, step: object) -> None:
        self.commit_testimony(step)

    def take_long(self) -> None:
        """An answer that is kept has been kept for too long."""
        self.interpreter.unseal()

    def continue_later(self) -> None:
        self._later = True

    def refused(self, events: list[object], attempts: int) -> None:
        raise AssertionError("the log of this harness takes everything")

    def parse(self, text: bytes, codec: str, strings: int) -> None:
        raise AssertionError("no text is so long")

    # --- the end -----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The client waits for the answers to all that it has said."""
        for _ in range(10_000):
            before = self._state()
            self.send(1 << 20)
            self.run(1 << 20)
            self.deliver(1 << 20)
            self.log(0)
            self.log(1)
            if self._state() == before:
                return
        raise AssertionError("no end of moves")

    def _state(self) -> tuple[object, ...]:
        return (
            len(self.unsent), len(self.forwarded), len(self.received), len(self.events), len(self._to_backend),
            len(self.backend.out), self.interpreter.client_is_free, self.interpreter.backend_is_free,
        )  # fmt: skip

    def finish(self) -> None:
        """Ends the client's pipeline and waits for the answers: everything must have come to its end."""
        self.say(SYNC)
        self.drain()
        if self.backend.copying and not self.backend.ended:
            # That Sync was overlooked: a COPY still waits for its data.
            self.say(COPY_FAIL + SYNC)
            self.drain()
        if self.backend.transaction != "I" and not self.backend.ended:
            self.say(query("ROLLBACK"))
            self.drain()
        if not self.backend.ended:
            assert self.forwarded == self.said and self.session.quiet, self.session
            assert self.session.idle
            assert self.backend.token, "the session has lost its token"
        assert self.received == self.backend.visible
        self.events += self.session.lost()
        self._judge()

    def _judge(self) -> None:
        by_kind: dict[str, list[object]] = {}
        for event in self.events:
            by_kind.setdefault(event.event, []).append(event)  # type: ignore[attr-defined]
        assert set(by_kind) <= {"attempt", "call", "outcome", "access"}, set(by_kind)
        calls = sorted(event.secret_names[0] for event in by_kind.get("call", []))  # type: ignore[attr-defined]
        backend = self.backend
        for name in backend.hidden:
            calls.remove(name)
        if self.strict:
            assert set(calls) <= {"sql"}, calls
        assert calls.count("sql") <= len(backend.either)
        # An outcome speaks for the attempts that it names, or for all of its statement; calls that none covers have
        # rows of their own.
        ends: dict[tuple[object, ...], int] = {}
        for event in by_kind.get("outcome", []):
            key = (event.statement_no, event.function, event.owner_id, event.secret_names)  # type: ignore[attr-defined]
            assert key not in ends, f"two outcomes of {key}"
            ends[key] = event.calls or 0  # type: ignore[attr-defined]
        covered = {
            (event.statement_no, event.function, event.owner_id, event.secret_names)  # type: ignore[attr-defined]
            for event in by_kind.get("attempt", [])
        }
        counted = sum(ends[key] if key in ends else ends[key[0], None, None, None] for key in covered) + len(
            by_kind.get("call", [])
        )
        counted += sum(event.calls or 0 for event in by_kind.get("access", []))  # type: ignore[attr-defined]
        assert counted == len(backend.told) + len(backend.hidden) + len(backend.either), counted
        whole = [event.statement_no for event in by_kind.get("access", [])]  # type: ignore[attr-defined]
        assert len(set(whole)) == len(whole), "an access is told once"
        started = {event.statement_no for event in self.events if event.event not in ("outcome", "access")}  # type: ignore[attr-defined]
        ended = [event.statement_no for event in by_kind.get("outcome", [])]  # type: ignore[attr-defined]
        assert not started & set(whole), "a statement is an access in one row, or in several"
        assert started == set(ended), (started, ended)

    @property
    def log_lines(self) -> list[tuple[object, ...]]:
        """Gives what the log has of the statements that made calls, whatever the order of the moves."""
        return sorted(
            (e.statement_no, str(e.outcome), e.calls)
            for e in self.events
            if e.event in ("outcome", "access") and e.calls  # type: ignore[attr-defined]
        )

    def play(self, data: bytes) -> None:
        """Makes the moves that these bytes tell: three each."""
        for start in range(0, len(data) - 2, 3):
            move, number, size = data[start : start + 3]
            if move % 8 < 2:
                self.say(LEADING[number % len(LEADING)])
            elif move % 8 == 2:
                self.say(SAYINGS[(number << 8 | size) % len(SAYINGS)])
            elif move % 8 == 3:
                self.send(number + 1)
            elif move % 8 == 4:
                self.run(number + 1)
            elif move % 8 == 5:
                self.deliver(number + 1)
            elif move == 255:
                self.take_long()
            elif move >= 246:
                self.drain()
            else:
                self.log(move)
