"""The states of a session, which follows which, and what every part of a session may know of it.

A session begins when its startup packet has gone to the backend.

    LOGIN      authentication is relayed; the client may only answer it (or leave)
    GREETING   the backend is ready, the proxy sets the session's token; what the client says meanwhile waits
    READY      the client's messages go on, read on their way
    CLOSED     the client has said Terminate or what ends a session, or the session was ended: no more of it goes on

Which message each state takes stands in session.py. A message that the state has no handler for is not the
client's to send. It goes on, the last one that does: the backend ends the session, in its own words
(SocketBackend() of src/backend/tcop/postgres.c).
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Final

from secretproxy.detect import Detector
from secretproxy.session.encodings import decoded, session_codec
from secretproxy.session.events import Identity, LogState
from secretproxy.session.step import Limits
from secretproxy.wire.types import TransactionStatus

# The settings that a backend reports and that matter here: the others can be as long as a client likes, search_path
# among them.
_KEPT: Final = frozenset(
    (
        b"application_name", b"client_encoding", b"default_transaction_read_only", b"in_hot_standby",
            b"server_encoding",
        b"standard_conforming_strings",
    )
)  # fmt: skip


class Phase(Enum):
    """The phase of a session's life."""

    LOGIN = "login"
    GREETING = "greeting"
    READY = "ready"
    CLOSED = "closed"


class GreetingPhase(Enum):
    """The part of the greeting that the backend is answering."""

    # When its process began, asked as the client's user, and where that is hidden from it by the function that may
    # see it.
    START = "start"
    START_AS_OWNER = "start as owner"
    TOKEN = "token"  # noqa: S105
    # Behind a pooler: whether the same process answers again and still has the token.
    STILL_THERE = "still there"


_TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    # A session of physical replication takes no SQL and is not greeted.
    Phase.LOGIN: frozenset({Phase.GREETING, Phase.READY, Phase.CLOSED}),
    Phase.GREETING: frozenset({Phase.READY, Phase.CLOSED}),
    Phase.READY: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset({Phase.CLOSED}),
}


class State:
    """The session's identity, its phase and the encoding of its texts. One object for all parts of a session."""

    def __init__(
        self,
        identity: Identity,
        detector: Detector,
        limits: Limits,
        replication: str | None,
        log: LogState | None = None,
    ) -> None:
        self.identity = identity
        self.detector = detector
        self.limits: Final = limits
        self.log: Final = LogState() if log is None else log
        self.phase = Phase.LOGIN
        self.transaction_status: str = TransactionStatus.IDLE
        # Whether nobody is there any more who could be told how a statement ended.
        self.client_gone = False
        # Whether the backend has the functions that testify.
        self.testifies = False
        # Names of its functions that may run without a word all the same, told from outside.
        self.silent: frozenset[str] = frozenset()
        self.parameters: dict[str, str] = {}
        self.codec = "utf-8"
        # Whether the server is one of SQL_ASCII: its texts are bytes (encodings.py).
        self.raw = False
        # Physical replication takes no SQL, logical replication no extended protocol and no FunctionCall.
        self.physical: Final = replication is not None and replication.lower() in ("true", "on", "yes", "1", "t", "y")
        self.logical: Final = replication is not None and replication.lower() == "database"

    def enter(self, phase: Phase) -> None:
        """Goes over to a phase that may follow the present one."""
        assert phase in _TRANSITIONS[self.phase], "no transition of a session"
        self.phase = phase

    def at(self, phase: Phase) -> bool:
        """Tells whether the session is in this phase."""
        return self.phase is phase

    def report(self, name: bytes, value: bytes) -> None:
        """Takes a ParameterStatus: encodings count from here on."""
        if name not in _KEPT:
            return
        key, text = name.decode("ascii", "replace"), decoded(value, self.codec)
        self.parameters[key] = text
        if key in ("client_encoding", "server_encoding"):
            server = self.parameters.get("server_encoding", "")
            self.raw = server.upper() == "SQL_ASCII"
            self.codec = session_codec(self.parameters.get("client_encoding", ""), server)
        elif key == "application_name" and text != self.identity.application_name:
            self.identity = replace(self.identity, application_name=text or None)
