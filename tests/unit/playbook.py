"""Plays transcripts of the wire: what each side says, line by line, and what the session decides.

    play = Playbook().logged_in()
    play >> query("SELECT 1")            # the client says it; by default all of it goes on
    play << complete("SELECT 1") << ready("I")

`play.committed`, `play.recorded` and `play.injected` hold what the session asked for since the last look (`take`).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import uuid
from collections.abc import Iterable

from secretproxy.detect import Detector
from secretproxy.session.events import Event, Identity, LogState
from secretproxy.session.interpreter import Interpreter
from secretproxy.session.session import Limits, Session, Step
from secretproxy.session.testimony import Keys
from tests.support.effects import SocketEffects, given

KEY = bytes(range(32))
KEYS = Keys({1: KEY})
PID = 4711
START = 1_700_000_000_000_000
OWNER = uuid.UUID("5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44")
GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


# --- the client ----------------------------------------------------------------------------------------------------


def query(sql: str) -> bytes:
    return message(b"Q", text(sql))


def parse(sql: str, name: str = "", types: Iterable[int] = ()) -> bytes:
    listed = list(types)
    return message(b"P", text(name) + text(sql) + struct.pack(f"!H{len(listed)}I", len(listed), *listed))


def bind(
    values: Iterable[bytes | None] = (), *, portal: str = "", statement: str = "", formats: Iterable[int] = ()
) -> bytes:
    chosen, given = list(formats), list(values)
    body = (
        text(portal)
        + text(statement)
        + struct.pack(f"!H{len(chosen)}H", len(chosen), *chosen)
        + struct.pack("!H", len(given))
    )
    for value in given:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return message(b"B", body + struct.pack("!H", 0))


def describe(kind: str = "S", name: str = "") -> bytes:
    return message(b"D", kind.encode() + text(name))


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message(b"E", text(portal) + struct.pack("!i", rows))


def close(kind: str, name: str) -> bytes:
    return message(b"C", kind.encode() + text(name))


SYNC, FLUSH, TERMINATE = message(b"S"), message(b"H"), message(b"X")
COPY_DATA, COPY_DONE = message(b"d", b"1\tx\n"), message(b"c")
FUNCTION_CALL = message(b"F", struct.pack("!IHHH", 1234, 0, 0, 0))


# --- the backend ---------------------------------------------------------------------------------------------------


def ready(status: str = "I") -> bytes:
    return message(b"Z", status.encode())


def complete(tag: str = "SELECT 1") -> bytes:
    return message(b"C", text(tag))


def row(*values: str) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", len(value)) + value.encode()
    return message(b"D", body)


def error(sqlstate: str, severity: str = "ERROR") -> bytes:
    return message(
        b"E", b"S" + text(severity) + b"V" + text(severity) + b"C" + text(sqlstate) + b"M" + text("broken") + b"\0"
    )


def notice(said: str, sqlstate: str = "00000", severity: str = "NOTICE") -> bytes:
    return message(
        b"N", b"S" + text(severity) + b"V" + text(severity) + b"C" + text(sqlstate) + b"M" + text(said) + b"\0"
    )


def parameter(name: str, value: str) -> bytes:
    return message(b"S", text(name) + text(value))


PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE = message(b"1"), message(b"2"), message(b"3")
NO_DATA, SUSPENDED, EMPTY = message(b"n"), message(b"s"), message(b"I")
ROW_DESCRIPTION = message(b"T", b"\0\0")
COPY_IN = message(b"G", b"\0\0\0")
AUTHENTICATION_OK = message(b"R", b"\0\0\0\0")
KEY_DATA = message(b"K", struct.pack("!II", PID, 1))


def sign(signed: str, key: bytes = KEY) -> str:
    return f"{signed} {hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()}"


def testified(
    name: str = "key", *, owner: uuid.UUID | None = OWNER, function: str = GETTER, clock: int = START + 1, pid: int = PID,
    start: int = START, key: bytes = KEY, jwt: uuid.UUID | None = None,
) -> bytes:  # fmt: skip
    """Makes a signed INFO of a function."""
    signed = f"SPX1 1 {pid} {start} {clock:016x} {function} {owner or '-'} {name.encode().hex() or '_'} - {b'app'.hex()} - {jwt or '-'} p -"
    return notice(sign(signed, key), "SPX01", "INFO")


def quoted(
    name: str = "key", *, owner: object = OWNER, clock: int = START + 1, pid: int = PID, start: int = START, key: bytes = KEY,
    texts: str | None = None,
) -> bytes:  # fmt: skip
    """Makes the same in the form that a getter has for it; `texts` in the place of the name, the user and the role."""
    quoted_texts = texts or "'" + name.replace("'", "''") + "' 'app' 'none'"
    said = f"SPX2 1 {pid} {start} {clock:016x} {GETTER} {owner}  {quoted_texts}"
    return notice((said.encode() + hmac.digest(key, said.encode(), "sha256")).hex(), "SPX01", "INFO")


testified.__test__ = False  # type: ignore[attr-defined]


# --- the playbook --------------------------------------------------------------------------------------------------


class Playbook(SocketEffects):
    """A session and what its interpreter has done so far. What waits for the log goes on at once unless `refusing`.

    It is the peers, the log and the Effects of session/interpreter.py: the same interpreter runs the proxy.
    """

    def __init__(
        self, *, limits: Limits | None = None, replication: str | None = None, takes_accesses: bool = False
    ) -> None:
        self.detector = Detector()
        self.log = LogState()
        self.log.takes_accesses = takes_accesses
        self.session = Session(
            Identity(uuid.uuid4(), "app", "app"), KEYS, self.detector, limits or Limits(), replication, self.log
        )
        self.interpreter = Interpreter(self.session, *given(self))
        self.refusing = False
        self.committed: list[Event] = []
        self.recorded: list[Event] = []
        self.refusals: list[Event] = []
        self.injected = b""
        self.held = b""
        self.to_backend = b""
        self.to_client = b""

    def logged_in(self) -> Playbook:
        """Plays the login and the greeting."""
        self << AUTHENTICATION_OK + parameter("client_encoding", "UTF8") + KEY_DATA + ready()
        self << complete("SET") + ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready()
        self << message(b"V", struct.pack("!i", -1)) + ready()
        self.take()
        return self

    def __rshift__(self, chunk: bytes) -> Playbook:
        self.interpreter.from_client(chunk)
        return self

    def __lshift__(self, chunk: bytes) -> Playbook:
        self.interpreter.from_backend(chunk)
        return self

    # --- effects ---

    def send_to_backend(self, data: bytes) -> None:
        self.to_backend += data

    def send_to_client(self, data: bytes) -> None:
        self.to_client += data

    def send_to_client_soon(self, data: bytes) -> None:
        self.to_client += data

    def inject(self, data: bytes) -> None:
        self.injected += data

    def record(self, events: list[Event]) -> None:
        self.recorded += events

    def commit_attempts(self, step: Step) -> None:
        self.committed += step.commit
        self.held += b"".join(part.data for part in step.held)
        if self.refusing:
            self.interpreter.refuse(taken=False)
            self.interpreter.proceed()
        else:
            self.interpreter.attempts_committed()

    def commit_testimony(self, step: Step) -> None:
        self.committed += step.commit
        self.held += b"".join(part.data for part in step.held)
        self.interpreter.testimony_committed()

    def commit_access(self, step: Step) -> None:
        self.committed += step.commit
        self.held += b"".join(part.data for part in step.held)
        if self.refusing:
            self.interpreter.withhold()
        else:
            self.interpreter.testimony_committed()

    def refused(self, events: list[Event], attempts: int) -> None:
        self.refusals += events

    def parse(self, text: bytes, codec: str, strings: int) -> None:
        self.interpreter.parsed(text, self.detector.analyse(text, codec, strings))

    def continue_later(self) -> None:
        self.interpreter.resume_client()

    # --- what became of it ---

    def take(self) -> tuple[bytes, bytes]:
        """Gives (to the backend, to the client) since the last look; everything else is forgotten."""
        taken = self.to_backend, self.to_client
        self.to_backend = self.to_client = self.injected = self.held = b""
        self.committed, self.recorded, self.refusals = [], [], []
        return taken

    @property
    def said(self) -> list[tuple[object, ...]]:
        """Gives every event so far, briefly: kind, statement, names, outcome, sqlstate, calls."""
        events = [*self.committed, *self.refusals, *self.recorded]
        return [(e.event, e.statement_no, e.secret_names, e.outcome, e.sqlstate, e.calls) for e in events]
