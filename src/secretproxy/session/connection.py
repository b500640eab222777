"""All that a session holds, from its first byte to its last, and nothing that decides: the lowest of its layers (see session.py).

Every attribute of a session is set here, so that what it costs and what it may keep of a client is read in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from secretproxy.detect import Detector, ResolvedCall, Verdict
from secretproxy.session import testimony
from secretproxy.session.events import Event, Identity
from secretproxy.session.statements import Describing, Key, Portal, Prepared, Running, Undo
from secretproxy.session.states import Phase
from secretproxy.session.step import Held, Limits, Step
from secretproxy.wire import framing
from secretproxy.wire.framing import Framer

# Rows and COPY data pass unseen. Everything else is seen; what is read must be whole. Answers to the proxy's own are seen in full.
FROM_BACKEND_OWN = framing.actions(mark=b"12nstTVGHWcIA", whole=b"CENSKRZvtD")
FROM_BACKEND = bytes(framing.PASS if kind in b"Dd" else action for kind, action in enumerate(FROM_BACKEND_OWN))
FROM_CLIENT = bytes(
    framing.PASS if kind in b"d" else action for kind, action in enumerate(framing.actions(mark=b"SHcfXp", whole=b"QPBDECF"))
)

# Entries of `pending` from which on the client is not read from.
CROWDED = 1024
# What is kept of harmless statements serves a fingerprint alone: so many of them, and so many bytes of their texts.
MOST_HARMLESS = 256
MOST_TEXTS = 262_144

Entry = int | bytes | Prepared | Running | Undo | Describing


class Connection(ABC):
    """One client and its backend.

    Abstract, as all the layers but the last are: nothing else is ever a `self` to them, which compiled code checks in one comparison.
    """

    def __init__(
        self,
        identity: Identity,
        keys: testimony.Keys,
        detector: Detector,
        limits: Limits,
        replication: str | None = None,
    ) -> None:
        self.identity = identity
        self.phase = Phase.LOGIN
        # The process that answers, by its own word; until the greeting has asked it, by BackendKeyData.
        self.backend_pid = 0
        # Whether those two differ: a pooler stands before the server.
        self.pooled = False
        self._kept_token = False
        # What a CancelRequest for this session carries: process id and secret key.
        self.cancel_key = b""
        self.login_refusal = ""
        self.authenticated = False
        self.client_gone = False
        self.backend_start: int | None = None
        self.transaction_status = "I"
        self.parameters: dict[str, str] = {}
        self.answered = False
        self._keys = keys
        self.detector = detector
        self._limits = limits
        # Physical replication takes no SQL, logical replication no extended protocol and no FunctionCall.
        self.physical = replication is not None and replication.lower() in (
            "true",
            "on",
            "yes",
            "1",
            "t",
            "y",
        )
        self._logical = replication is not None and replication.lower() == "database"
        self._codec = "utf-8"
        # Whether the server is one of SQL_ASCII: its texts are bytes (encodings.py).
        self._raw = False
        # Whether the backend has the functions that testify.
        self._testifies = False
        self._client = Framer(FROM_CLIENT, limits.max_message)
        self._backend = Framer(FROM_BACKEND, 0x7FFFFFFF)
        self._early: list[bytes] = []
        self._greeting = ""
        self._greeting_z = b""
        self._pending: deque[Entry] = deque()
        # Of these, what may yet turn out to be passed over; and how many pipelines have ended with a Sync.
        self._doubts: deque[Undo] = deque()
        self._pipeline = 1
        # While there are such: names of statements (False) and portals (True) that this pipeline has changed.
        self._renamed: set[tuple[bool, bytes]] = set()
        self._skipping = False
        self._copying = False
        # Whether the backend has said anything since the last ReadyForQuery that answers one of the client's messages.
        self._heard = False
        self._token_lost = False
        self._token_inside = False
        self._token_version = 0
        self._started = 0
        self._ended = 0
        self._last_clock = 0
        self._statements: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Prepared | Portal] = {}
        # Of statements: the bytes of harmless texts, and how many make secret calls.
        self._texts = 0
        self._secret_statements = 0
        # Of portals: those that have stopped at their row limit, in order; whether any matters to what comes.
        self._suspended: dict[Portal, None] = {}
        self._portals_matter = False
        self._sql_calls: dict[str, Verdict] = {}
        self._cursors: dict[str, tuple[ResolvedCall, ...]] = {}
        self._remembered: tuple[bytes, ...] = ()
        self._supplied: tuple[bytes, Verdict] | None = None
        self._between: Running | None = None
        self._defined = False
        # The rest of a message that is too long to be looked at is not let through.
        self._dropping = False
        # Bytes of a client's message that was replaced, still to come.
        self._swallow_client = 0
        # Of the chunk under way.
        self._forgeries: dict[tuple[int, Key | None], Event] = {}
        self._step: Step | None = None
        self._kept_from = 0
        self._holding = False

    @abstractmethod
    def from_client(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the client's."""

    @abstractmethod
    def from_backend(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the backend's."""

    @property
    def token(self) -> str | None:
        if self.backend_start is None:
            return None
        return self._keys.token(self.backend_pid, self.backend_start)

    def _in(self, phase: Phase) -> bool:
        return self.phase is phase

    def _taken(self) -> Step | None:
        step, self._step = self._step, None
        return step

    def _stepped(self) -> Step:
        if self._step is None:
            self._step = Step()
        return self._step

    def _let_on(self, data: bytes) -> None:
        """Goes on in its place in the stream: at once, or behind what waits."""
        step = self._stepped()
        if not self._holding:
            step.forward += data
        elif data:
            step.held.append(Held(data))
