"""The session's token, and the backend process that it belongs to.

The token is lost where a client resets it, where a transaction that set it is rolled back, and where a newer key
signs: it is made again as soon as the backend is ready for it. What the backend answers to that never reaches the
client.
"""

from __future__ import annotations

from typing import Final

from secretproxy.session import testimony
from secretproxy.session.pipeline import Pipeline
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Output
from secretproxy.session.stream import BackendStream
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import SqlState, TransactionStatus

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

    def __init__(
        self, state: State, output: Output, stream: BackendStream, pipeline: Pipeline, keys: testimony.Keys
    ) -> None:
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
        self._inside = False
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
        if self._inside:
            self._lost = True

    def end_transaction(self) -> None:
        """Takes the end of a transaction: what was set in it stays."""
        self._inside = False

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
        self._inside = state.transaction_status == TransactionStatus.IN_TRANSACTION
        self._pipeline.inject()
        self._stream.see_rows(True)
        self._output.made().inject += self.message(token)

    def refuse_pooler(self) -> None:
        """Ends the session: what its backend does, another session may see, and what another's does, this one."""
        self._state.enter(Phase.CLOSED)
        self._output.made().violation = POOLER
