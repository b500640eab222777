"""Testimony: reads what a secret function says from inside the backend each time it runs, matches it to the attempt
that covers it, and keeps the session's token, for which the function says it.

Keys signs and checks. Token is the backend process and whether it has the session's token: that is lost where a client
resets it, where a transaction that set it is rolled back, and where a newer key signs, and it is made again as soon as
the backend is ready for it. Matching takes testimony out of the backend's stream; where no attempt covers it, the
stream waits for the log. One that is not this backend's own, or is played again, is a forgery.

A testimony is a NoticeResponse with SQLSTATE SPX01 whose message is fifteen ASCII tokens, the last
an HMAC-SHA256 over the others:

    SPX1 KEY PID START CLOCK FUNCTION OWNER NAMES ENCODING SESSION_USER ROLE JWT_USER p|d - MAC

START is in microseconds since the Unix epoch, CLOCK in those since 2000-01-01 UTC as sixteen hexadecimal digits
(timestamptz_send); texts are in hexadecimal of their UTF-8 bytes; `-` is NULL. NAMES: hex joined by commas, `~` a NULL
element, `_` an empty name, `=` an empty array.

A call of one name in a proxied session may say it in fewer steps, for the backend's sake: the same tokens without
those that it does not have, the texts in quotes as quote_nullable() puts them, the 32 bytes of the HMAC after them,
and all of it in hexadecimal:

    SPX2 KEY PID START CLOCK FUNCTION OWNER JWT_USER 'NAME' 'SESSION_USER' 'ROLE'MAC

JWT_USER may be empty; ROLE is `none` where none is set, as current_setting('role') has it.

Where the session has no valid token the message is a sentence for people, and the first form stands in the field
CONSTRAINT NAME, which psql and drivers do not show. Such a session may be a proxied one all the same: its client
can have spoiled the token.
"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from mypy_extensions import mypyc_attr

from secretproxy.detect.arguments import spelled_uuid
from secretproxy.detect.functions import operation_of
from secretproxy.session.call_path import MOST_CONTEXT, call_path
from secretproxy.session.encodings import decoded
from secretproxy.session.events import Event, EventKind
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.quoted import AGAIN, BEFORE_MESSAGE, BEGUN, CUTTERS, QUOTED, SQLSTATE, Cut, Same, cut
from secretproxy.session.statements import CallKey, Running, call_key
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Output
from secretproxy.session.stream import BackendStream, Framer
from secretproxy.wire import messages
from secretproxy.wire.digest import MAKERS, pads
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import ErrorField, SqlState, TransactionStatus

DIRECT: Final = b"secretproxy: this call of "
# Before the number that a database signs to prove its key: nothing else that is signed begins so.
PROOF: Final = b"secretproxy key proof "
MARK: Final = b"secretproxy proxy mark "
_MARK: Final = re.compile(r"1\.([0-9]{1,10})\.([0-9a-f]{32})\.([0-9a-f]{64})")
# Bytes of a notice. The backend half makes no testimony longer than MOST (secretproxy.testify() counts the names).
# HEAD are read of one that has a long CONTEXT.
MOST: Final = 4_200_000
HEAD: Final = 32_768
_cut_commonest: Final[Callable[[bytes], Cut | None]] = CUTTERS[0]
_heard: Final[Callable[[bytes, int, int], Cut | None]] = CUTTERS[1]
_again: Final[Callable[[bytes, int, int, bytes, bytes, bytes, bytes, str, bytes], Same | None]] = AGAIN
_hmac: Final[Callable[[bytes, bytes, bytes], bytes]] = MAKERS[1]
_is_hmac: Final[Callable[[bytes, bytes, bytes, bytes], bool]] = MAKERS[2]
# What testimonies have in common is read once: so much of it is remembered, of such alone as were signed.
_KEPT: Final = 4096


class _Process:
    """The backend process that a testimony is of."""

    __slots__ = ("key", "pid", "start")

    def __init__(self, key: HmacKey, pid: bytes, start: bytes) -> None:
        """Takes PID and START. Raises ValueError."""
        self.key = key
        self.pid = int(pid)
        self.start = int(start)

    def __repr__(self) -> str:
        return f"_Process({self.pid})"


class _Called:
    """The function that was called, for whom and by whom."""

    __slots__ = ("function", "jwt_user", "owner")

    def __init__(self, function: bytes, owner: bytes, jwt_user: bytes) -> None:
        """Takes FUNCTION, OWNER and JWT_USER. Raises ValueError."""
        self.function = function.decode("ascii")
        self.owner = _uuid(owner)
        self.jwt_user = _uuid(jwt_user)

    def __repr__(self) -> str:
        return f"_Called({self.function})"


@mypyc_attr(free_list_len=1)
class Testimony:
    """One call as the function itself tells it, its MAC checked."""

    __slots__ = (
        "clock", "encoding", "function", "jwt_user", "names", "owner", "pid", "proxied", "role", "session_user",
            "start",
    )  # fmt: skip

    def __init__(
        self,
        process: _Process,
        clock: int,
        called: _Called,
        names: tuple[str | None, ...] | None,
        encoding: str | None,
        session_user: str,
        role: str | None,
        proxied: bool,
    ) -> None:
        self.pid = process.pid
        self.start = process.start
        self.clock = clock
        self.function = called.function
        self.owner = called.owner
        self.names = names
        self.encoding = encoding
        self.session_user = session_user
        self.role = role
        self.jwt_user = called.jwt_user
        self.proxied = proxied

    def __repr__(self) -> str:
        return f"Testimony({self.function})"


class _Last:
    """A testimony that was read, for the next one, which mostly differs from it in CLOCK, OWNER and NAME alone."""

    __slots__ = ("begun", "called", "function", "jwt_user", "named", "process", "role", "texts", "user")

    def __init__(self, function: str, parts: Cut, process: _Process) -> None:
        """Takes one of the commonest form: there is no mark in its texts."""
        self.function = function
        self.process = process
        self.begun = parts[2]
        self.named, owner, self.jwt_user = parts[4].split(b" ")
        self.called = _Called(self.named, owner, self.jwt_user or b"-")
        self.user = parts[6]
        self.role = None if parts[7] == "none" else parts[7]
        self.texts = f"'{parts[6]}' '{parts[7]}'".encode("utf-8", "surrogateescape")

    def testimony(self, owner: uuid.UUID, written: bytes, name: str, clock: int) -> Testimony:
        """Makes the testimony of a call for this owner and with this name that says the same else."""
        called = self.called
        if called.owner is not owner:
            called = self.called = _Called(self.named, written, self.jwt_user or b"-")
        return Testimony(self.process, clock, called, (name,), None, self.user, self.role, True)

    def __repr__(self) -> str:
        return f"_Last({self.function})"


class HmacKey:
    """An HMAC-SHA256 key."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        self._inner, self._outer = pads(key)

    def sign(self, message: bytes) -> bytes:
        """Computes the MAC, 32 bytes."""
        return _hmac(self._inner, self._outer, message)

    def has_signed(self, message: bytes, mac: bytes) -> bool:
        """Tells whether this is the message's MAC."""
        return _is_hmac(self._inner, self._outer, message, mac)

    def __repr__(self) -> str:
        return "HmacKey(<redacted>)"


class Keys:
    """The keys of testimony and token by version. The highest signs; every one is accepted.

    `reload` is asked for newer keys where a testimony names a version that is not known.
    """

    __slots__ = ("_called", "_keys", "_processes", "_reload", "version")

    def __init__(
        self, keys: Mapping[int, bytes], reload: Callable[[], Mapping[int, bytes] | None] | None = None
    ) -> None:
        self._reload = reload
        # What stands in "KEY PID START" and "FUNCTION OWNER JWT_USER" of testimonies that were signed.
        self._processes: dict[bytes, _Process] = {}
        self._called: dict[bytes, _Called] = {}
        self.replace(keys)

    def replace(self, keys: Mapping[int, bytes]) -> None:
        self._processes.clear()
        self._keys = {version: HmacKey(key) for version, key in keys.items()}
        self.version = max(self._keys)

    def _key(self, version: int) -> HmacKey | None:
        key = self._keys.get(version)
        if key is None and self._reload is not None:
            newer = self._reload()
            if newer:
                self.replace(newer)
                key = self._keys.get(version)
        return key

    def __repr__(self) -> str:
        return f"Keys(versions={sorted(self._keys)})"

    def token(self, pid: int, start: int) -> str:
        """Makes the value of `secretproxy.session` for a backend process and its start time."""
        signed = f"SPXT1 {pid} {start}".encode()
        return f"1.{self.version}.{self._keys[self.version].sign(signed).hex()}"

    def proves(self, version: int, nonce: bytes, proof: str) -> bool | None:
        """Says whether secretproxy.key_proof() signed this number with the key of this version; None if no such key is
        known.
        """
        key = self._key(version)
        return None if key is None else hmac.compare_digest(key.sign(PROOF + nonce).hex(), proof)

    def mark(self, nonce: bytes) -> str:
        """Makes the mark by which a proxy with these keys recognises itself."""
        return f"1.{self.version}.{nonce.hex()}.{self._keys[self.version].sign(MARK + nonce).hex()}"

    def knows(self, mark: str) -> bool:
        """Says whether a proxy with one of these keys made this mark."""
        found = _MARK.fullmatch(mark)
        key = self._keys.get(int(found[1])) if found is not None else None
        return (
            found is not None
            and key is not None
            and hmac.compare_digest(key.sign(MARK + bytes.fromhex(found[2])).hex(), found[3])
        )

    def read(self, message: bytes) -> Testimony | None:
        """Reads the testimony in a notice's message; None if its MAC or its form is wrong."""
        try:
            return self._quoted(message) if message.startswith(QUOTED) else self._spelled(message)
        except ValueError:
            return None

    def _spelled(self, message: bytes) -> Testimony | None:
        signed, _, mac = message.rpartition(b" ")
        parts = signed.split(b" ")
        if len(parts) != 14 or parts[0] != b"SPX1":
            return None
        key = self._spelled_key(parts[1])
        if key is None or not key.has_signed(signed, bytes.fromhex(mac.decode("ascii"))):
            return None
        return Testimony(
            _Process(key, parts[2], parts[3]), int(parts[4], 16), _Called(parts[5], parts[6], parts[11]),
            _names(parts[7]), _text(parts[8]), _text(parts[9]) or "", _text(parts[10]), parts[12] == b"p",
        )  # fmt: skip

    def _quoted(self, message: bytes) -> Testimony | None:
        parts = _cut_commonest(message)
        if parts is None:
            parts = cut(message)
            if parts is None:
                return None
        return self._checked(parts)

    def read_cut(self, parts: Cut) -> Testimony | None:
        """Reads the testimony that has these parts; None if its MAC or what stands in it is wrong."""
        try:
            return self._checked(parts)
        except ValueError:
            return None

    def _checked(self, parts: Cut) -> Testimony | None:
        signed, mac, begun, clock, called, name, user, role = parts
        process = self._processes.get(begun)
        key = self._spelled_key(begun.partition(b" ")[0]) if process is None else process.key
        if key is None or not key.has_signed(signed, mac):
            return None
        if process is None:
            if len(self._processes) >= _KEPT:
                self._processes.clear()
            _, pid, start = begun.split(b" ")
            process = self._processes[begun] = _Process(key, pid, start)
        found = self._called.get(called)
        if found is None:
            if len(self._called) >= _KEPT:
                self._called.clear()
            function, owner, jwt_user = called.split(b" ")
            found = self._called[called] = _Called(function, owner, jwt_user or b"-")
        return Testimony(process, clock, found, (name,), None, user, None if role == "none" else role, True)

    def process(self, begun: bytes) -> _Process:
        """Gives the process of a testimony that was read before, which begins like this."""
        return self._processes[begun]

    def signed(self, begun: bytes, process: _Process, said: bytes, mac: bytes) -> bool:
        """Tells whether this is the MAC of a testimony of a process that was read before, with a key that is still
        known."""
        return self._processes.get(begun) is process and process.key.has_signed(said, mac)

    def _spelled_key(self, version: bytes) -> HmacKey | None:
        return self._key(int(version)) if version.isdigit() else None


def may_be(begun: bytes) -> bool:
    """Says whether a message that begins like this can be a testimony."""
    return any(begun.startswith(head[: len(begun)]) for head in (b"SPX1 ", QUOTED))


def may_be_direct(begun: bytes) -> bool:
    """Says whether a message that begins like this can be the sentence of a session without a token, whose testimony
    comes after the CONTEXT.
    """
    return begun.startswith(DIRECT[: len(begun)])


def line(message: bytes, constraint: bytes) -> bytes:
    """Gives the signed line of a notice, from its MESSAGE or its CONSTRAINT NAME."""
    return constraint if message.startswith(DIRECT) else message


def _uuid(token: bytes) -> uuid.UUID | None:
    return None if token == b"-" else spelled_uuid(token.decode("ascii"))


def _text(token: bytes) -> str | None:
    return None if token == b"-" else bytes.fromhex(token.decode("ascii")).decode("utf-8", "surrogateescape")


def _names(token: bytes) -> tuple[str | None, ...] | None:
    if token == b"-":
        return None
    if token == b"=":
        return ()
    return tuple(None if part == b"~" else "" if part == b"_" else _text(part) for part in token.split(b","))


_SET_CONFIG: Final = 2078  # OID of pg_catalog.set_config(text, text, boolean), src/include/catalog/pg_proc.dat
_SET_TOKEN: Final = "SET secretproxy.session TO '{token}'"  # noqa: S105
# All SQL that this module sends; that of the greeting is in greeting.py.
OWN_SQL: Final = (_SET_TOKEN.format(token="token"),)  # noqa: S106
POOLER: Final = ProtocolViolationError(
    "a connection pooler between secretproxy and PostgreSQL gives each transaction another session",
    SqlState.FEATURE_NOT_SUPPORTED,
    "Calls cannot be told apart so. Set pool_mode = session for this database in the pooler, or put the pooler in "
    "front of secretproxy.",
    "backend.hosts",
)


class Token:
    """The session's backend process, and whether that process has the session's token."""

    def __init__(self, state: State, output: Output, stream: BackendStream, pipeline: Pipeline, keys: Keys) -> None:
        self._state: Final = state
        self._output: Final = output
        self._stream: Final = stream
        self._pipeline: Final = pipeline
        self.keys: Final = keys
        self._pid = 0
        self._start: int | None = None
        self._pooled = False
        self._lost = False
        # Whether it was set within a transaction.
        self._set_in_transaction = False
        self._version = 0

    @property
    def pid(self) -> int:
        """Gives the id of the backend process: from BackendKeyData, and after the greeting from the process itself."""
        return self._pid

    @property
    def start(self) -> int | None:
        """Gives the start time of the process, in microseconds since the Unix epoch; None until it is known."""
        return self._start

    @property
    def pooled(self) -> bool:
        """Says whether the two process ids differ: then a pooler is in front of the server."""
        return self._pooled

    @property
    def value(self) -> str | None:
        """Gives the token, None until the start time of the process is known."""
        return None if self._start is None else self.keys.token(self._pid, self._start)

    # --- whose it is ---

    def promised(self, pid: int) -> None:
        """Takes the process of BackendKeyData."""
        self._pid = pid

    def answered(self, pid: int, start: int | None) -> None:
        """Takes what a process says of itself. Where another was promised, that was a pooler's: it is for
        cancelling, and says nothing of who testifies."""
        if pid != self._pid:
            self._pooled = self._pid != 0
            self._pid = pid
        if start is not None:
            self._start = start

    def is_of(self, pid: int, start: int) -> bool:
        """Tells whether a testimony is of the session's process, since that started. The first one tells the start
        where nothing did."""
        if pid != self._pid:
            return False
        if self._start is None:
            self._start = start
        return start == self._start

    def is_of_another(self, pid: int, start: int) -> bool:
        """Tells whether a testimony is of another process behind the pooler."""
        return self._pooled and (pid, start) != (self._pid, self._start)

    # --- whether it is there ---

    def message(self, token: str) -> bytes:
        """Gives the message that sets the token."""
        self._version = self.keys.version
        if self._state.logical:
            return messages.query(_SET_TOKEN.format(token=token))
        if self._state.transaction_status != TransactionStatus.IDLE:
            # The client may still choose its transaction's isolation or snapshot: nothing may take one before that.
            return messages.aside(_SET_TOKEN.format(token=token), "secretproxy token")
        # A FunctionCall leaves the unnamed statement and portal alone, and no text of it is logged.
        return messages.function_call(_SET_CONFIG, ["secretproxy.session", token, "f"])

    def lose(self) -> None:
        """Takes note that the backend may not have the token any more."""
        self._lost = True

    def rolled_back(self) -> None:
        """Takes a ROLLBACK, of a transaction or to a savepoint: the setting is what it was before, which may be
        none."""
        if self._set_in_transaction:
            self._lost = True

    def end_transaction(self) -> None:
        """Takes the end of a transaction: what was set in it stays."""
        self._set_in_transaction = False

    @property
    def is_set(self) -> bool:
        """Says whether the backend has the token, with the present keys."""
        return not self._lost and (not self._version or self.keys.version == self._version)

    def renew(self, *, may_inject: bool) -> None:
        """Sets the token again where it may be lost and the backend takes a message now."""
        if self._version and self.keys.version != self._version:
            self._lost = True
        state = self._state
        if (
            not self._lost
            or not self._pipeline.idle
            or state.transaction_status == TransactionStatus.FAILED
            or not may_inject
            or state.phase is not Phase.READY
        ):
            return
        self._lost = False
        token = self.value
        if token is None or state.physical:
            return
        self._set_in_transaction = state.transaction_status == TransactionStatus.IN_TRANSACTION
        self._pipeline.inject()
        self._stream.report_rows(True)
        self._output.made().inject += self.message(token)

    def refuse_pooler(self) -> None:
        """Ends the session: what its backend does, another session may see, and what another's does, this one."""
        self._state.enter(Phase.CLOSED)
        self._output.made().violation = POOLER


# The SQLSTATE field of a testimony.
_TESTIMONY: Final = bytes((ErrorField.SQLSTATE,)) + SQLSTATE + b"\0"


def _message(buffer: bytes, start: int, end: int) -> bytes | None:
    """Gives the message of a notice of the second form, from `start` to `end`; None where it is of another."""
    at = buffer.find(BEGUN, start + 5, end)
    if at < 0:
        return None
    # No field has a NUL in it: this is the SQLSTATE, and the message behind it.
    at += BEFORE_MESSAGE
    return buffer[at : buffer.find(b"\0", at, end)]


class Matching:
    """Hears what the functions say."""

    def __init__(
        self, state: State, output: Output, stream: BackendStream, outcomes: Outcomes, pipeline: Pipeline, token: Token
    ) -> None:
        self._state: Final = state
        self._output: Final = output
        self._stream: Final = stream
        self._outcomes: Final = outcomes
        self._pipeline: Final = pipeline
        self._token: Final = token
        # What the last testimony said of its time: a later one says more.
        self._last_clock = 0
        # The last one that says() has read: the next one mostly says the same.
        self._last: _Last | None = None
        # A testimony that was read already, and is read again with what stands around it.
        self.known: Testimony | None = None
        # Events of forgeries in the chunk under way.
        self._forgeries: dict[tuple[int, CallKey | None], Event] = {}

    @property
    def forgeries(self) -> int:
        """Counts the events that the forgeries of the current chunk have made."""
        return len(self._forgeries)

    def begin(self) -> None:
        """Starts on a chunk."""
        if self._forgeries:
            self._forgeries = {}

    def notice(self, message: Framer) -> None:
        buffer, start = message.buffer, message.start
        end = min(message.end, len(buffer))
        if message.complete:
            if self.known is not None:
                self._take(message, self.known, None)
                return
            parts = _heard(buffer, start + 5, end)
            if parts is not None:
                self._take(message, self._token.keys.read_cut(parts), None)
                return
            said = _message(buffer, start, end)
            if said is not None:
                self._heard(message, said, None)
                return
            if buffer.find(_TESTIMONY, start, end) < 0:
                return
        found = messages.fields(buffer, start, end)
        if found.get(ErrorField.SQLSTATE) != SQLSTATE:
            return
        text, context = found.get(ErrorField.MESSAGE), found.get(ErrorField.CONTEXT)
        if not message.complete:
            kind, cut = messages.begun(buffer, start, end)
            if self._needs_more(message, text, kind, cut):
                return
            if kind == ErrorField.CONTEXT:
                context = cut
        self._heard(message, line(text or b"", found.get(ErrorField.CONSTRAINT_NAME, b"")), context)

    def _heard(self, message: Framer, text: bytes, context: bytes | None) -> None:
        """Takes what a notice says that is a testimony or pretends to be one. `context`: as far as it has been read."""
        self._take(message, self._token.keys.read(text), context)

    def _take(self, message: Framer, testimony: Testimony | None, context: bytes | None) -> None:
        self._stream.drop()
        running = self._pipeline.under_way()
        if testimony is None or not self._is_ours(testimony):
            self._take_foreign(running, testimony)
        else:
            self._match(running, testimony, message, context)

    def _needs_more(self, message: Framer, text: bytes | None, kind: int, cut: bytes) -> bool:
        """Decides on a notice of which only the beginning is there: False where that is enough to take it.

        Severity, SQLSTATE and message stand first, in this order, and what follows them may be as long as the
        client likes. `kind` and `cut` are the field that is cut off.
        """
        size = min(message.end, len(message.buffer)) - message.start
        if kind == ErrorField.MESSAGE and may_be(cut):
            if size >= MOST:
                self._end_undecided()
            else:
                message.demand(min(4 * size, MOST))
            return True
        if may_be_direct(cut) if kind == ErrorField.MESSAGE else text is not None and text.startswith(DIRECT):
            # Its line comes after the CONTEXT: it is read whole, or the session ends.
            if message.end - message.start > MOST:
                self._end_undecided()
            else:
                message.demand()
            return True
        if text is not None and size < HEAD and may_be(text):
            message.demand(HEAD)
            return True
        return False

    def _end_undecided(self) -> None:
        """Ends the session where a notice may be a testimony and does not end where the longest one does: nothing
        behind it goes on."""
        self._stream.drop()
        self._forged(self._pipeline.under_way(), None)
        self._state.enter(Phase.CLOSED)
        self._output.made().violation = ProtocolViolationError(
            "a testimony of a secret function is too long to be checked: the session ends before its answer goes on",
            SqlState.IO_ERROR,
        )

    def _match(self, running: Running, testimony: Testimony, message: Framer, context: bytes | None) -> None:
        """Counts a call for the attempt that covers it; where none does, nothing more reaches the client until the
        log has the call."""
        self._last_clock = testimony.clock
        self._state.testifies = True
        running.calls += 1
        tally = running.covered.get(call_key(testimony.function, testimony.owner, testimony.names))
        if tally is not None and tally.takes(testimony.role, testimony.jwt_user):
            self._stream.expect()
            return
        running.uncovered.add(testimony.function)
        running.role = testimony.role
        running.accessed_by = testimony.jwt_user
        event = self._event_of(running, "call", testimony)
        if not any(call.function == testimony.function for call in running.attempts):
            self._output.made().unannounced = True
        if context is None and message.complete:
            context = messages.fields(message.buffer, message.start, message.end).get(ErrorField.CONTEXT)
        if context is not None:
            event.via = call_path(decoded(context[:MOST_CONTEXT], self._state.codec))
        self._hold_for(event)

    def says(
        self, buffer: bytes, start: int, end: int, function: str, owner: uuid.UUID, written: bytes, name: str
    ) -> Testimony | None:
        """Reads the notice from `start` to `end`: gives its testimony if that is of the second form and of this call,
        was made by this backend process and is not played again. Takes no note of it. `written`: the owner, as the
        function writes it."""
        last, keys = self._last, self._token.keys
        if last is not None and last.function is function:
            same = _again(buffer, start + 5, end, last.begun, last.named, written, last.jwt_user, name, last.texts)
            if same is not None and keys.signed(last.begun, last.process, same[0], same[1]):
                testimony = last.testimony(owner, written, name, same[2])
                return testimony if self._is_ours(testimony) else None
        parts = _heard(buffer, start + 5, end)
        if parts is not None:
            found = keys.read_cut(parts)
        else:
            said = _message(buffer, start, end)
            if said is None:
                return None
            found = keys.read(said)
        if found is None or found.function != function or found.owner != owner or not self._is_ours(found):
            return None
        if found.names is None or len(found.names) != 1 or found.names[0] != name:
            return None
        if parts is not None:
            self._last = _Last(function, parts, keys.process(parts[2]))
        return found

    def heard(self, testimony: Testimony) -> None:
        """Takes note of a testimony that was matched elsewhere."""
        self._last_clock = testimony.clock
        self._state.testifies = True

    def _take_foreign(self, running: Running, testimony: Testimony | None) -> None:
        token = self._token
        if testimony is not None and token.is_of_another(testimony.pid, testimony.start):
            # Of another process behind a pooler: a call all the same, and no session that could be vouched for.
            running.calls += 1
            running.uncovered.add(testimony.function)
            self._hold_for(self._event_of(running, "call", testimony))
            token.refuse_pooler()
            return
        self._forged(running, testimony)

    def _event_of(self, running: Running, kind: EventKind, testimony: Testimony) -> Event:
        event = self._outcomes.event(running, kind)
        event.function = testimony.function
        event.operation = operation_of(testimony.function)
        event.owner_id = testimony.owner
        event.secret_names = testimony.names
        event.encoding = testimony.encoding if testimony.encoding in ("pgp", "crypt", "none") else None
        event.role = testimony.role
        event.accessed_by = testimony.jwt_user
        return event

    def _forged(self, running: Running, testimony: Testimony | None) -> None:
        """Takes a message that is no testimony of this backend's: one event for all that a chunk holds of the same,
        counted in `calls`.

        What a genuine one says that was played again, or that a clock set back makes look so, is kept.
        """
        said = None if testimony is None else call_key(testimony.function, testimony.owner, testimony.names)
        key = (running.number, said)
        event = self._forgeries.get(key)
        if event is None:
            event = (
                self._outcomes.event(running, "forgery")
                if testimony is None
                else self._event_of(running, "forgery", testimony)
            )
            event.calls = 0
            self._forgeries[key] = event
            self._hold_for(event)
        event.calls = (event.calls or 0) + 1

    def _is_ours(self, testimony: Testimony) -> bool:
        """Tells whether it was made by this backend process, since that started, and not played again."""
        return self._token.is_of(testimony.pid, testimony.start) and testimony.clock > self._last_clock

    def _hold_for(self, event: Event) -> None:
        """Lets nothing behind this message reach the client before the event is in the log."""
        self._stream.hold()
        self._output.made().commit.append(event)
