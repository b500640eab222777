"""The backend's half once it is ready: which message of the client's each answer belongs to, and what it says of a
statement's end.

One method a message; a handler gets the framer as the span of the message just reported. An answer to a message of
the proxy's own goes no further.
"""

from __future__ import annotations

from typing import Final

from secretproxy.session.names import Names
from secretproxy.session.pipeline import Pipeline
from secretproxy.session.statements import BIND, CLOSE, DESCRIBE, INJECTED, PARSE, Refusal, Running
from secretproxy.session.states import State
from secretproxy.session.step import Output
from secretproxy.session.stream import BackendStream, ClientStream, Framer
from secretproxy.session.testimony import Token
from secretproxy.wire import messages
from secretproxy.wire.types import BackendMessage, SqlState, TransactionStatus

# How the tags begin of statements that may change what leads to a secret function, themselves or in what they run.
_DEFINING: Final = frozenset({b"CREA", b"ALTE", b"DROP", b"IMPO", b"DO", b"CALL"})

_ABORTED: Final = "current transaction is aborted, commands ignored until end of transaction block"


class Backend:
    """Reads the backend."""

    def __init__(
        self,
        state: State,
        output: Output,
        client: ClientStream,
        stream: BackendStream,
        names: Names,
        pipeline: Pipeline,
        token: Token,
    ) -> None:
        self._state: Final = state
        self._output: Final = output
        self._client: Final = client
        self._stream: Final = stream
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._token: Final = token
        # Whether the transaction has done what may change the catalog.
        self.defined = False

    def passed(self, message: Framer) -> None:
        """Takes what goes on as it came."""
        if message.kind != BackendMessage.NOTIFICATION_RESPONSE and not self._pipeline.answer_part():
            self._stream.drop()

    def parameter_status(self, message: Framer) -> None:
        if message.complete:
            name, pos = messages.cstring(message.buffer, message.start + 5, message.end)
            value, _ = messages.cstring(message.buffer, pos, message.end)
            self._state.report(name, value)

    # --- the extended protocol ---

    def parse_complete(self, message: Framer) -> None:
        self._answered(PARSE)

    def bind_complete(self, message: Framer) -> None:
        self._answered(BIND)

    def close_complete(self, message: Framer) -> None:
        self._answered(CLOSE)

    def row_description(self, message: Framer) -> None:
        """Takes a RowDescription or NoData: the end of a Describe."""
        self._answered(DESCRIBE)

    def _answered(self, kind: int) -> None:
        if not self._pipeline.answered(kind):
            self._stream.drop()

    def parameter_description(self, message: Framer) -> None:
        described = self._pipeline.described()
        if described is not None and message.complete:
            described.types = messages.parameter_types(message.buffer, message.start, message.end)

    def suspended(self, message: Framer) -> None:
        self._pipeline.suspended()

    def copy_in(self, message: Framer) -> None:
        self._pipeline.copy_in()

    # --- ends ---

    def complete(self, message: Framer) -> None:
        """Takes a CommandComplete or EmptyQueryResponse."""
        if not self._pipeline.answer_part():
            self._stream.drop()
            return
        if message.kind == BackendMessage.COMMAND_COMPLETE and message.end - message.start > 5:
            self._tagged(message.buffer[message.start + 5 : min(message.end - 1, message.start + 16)])
        self._pipeline.completed()

    def _tagged(self, tag: bytes) -> None:
        """Reads the beginning of a command tag."""
        if tag in (b"RESET", b"DISCARD ALL"):
            self._token.lose()
        elif tag == b"PREPARE":
            self._pipeline.prepared()
        elif tag in (b"ROLLBACK", b"COMMIT") and self._state.transaction_status == TransactionStatus.FAILED:
            self._state.transaction_status = TransactionStatus.IN_TRANSACTION
        elif tag[:4] in _DEFINING:
            self.defined = True
        if tag == b"ROLLBACK":
            self._token.rolled_back()
        elif tag == b"DISCARD ALL" and self._pipeline.nothing_else_due:
            # With more under way, names may be new ones already.
            self._names.discard_all()

    def error(self, message: Framer) -> None:
        sqlstate, fatal = messages.read_error(message.buffer, message.start, message.end)
        head = self._pipeline.failing()
        if head is None:
            return
        if head == INJECTED:
            if not fatal:
                self._stream.drop()
                # Cancelled, perhaps: another try behind the next statement.
                self._token.lose()
            return
        if isinstance(head, Running) and head.refused is not None and not fatal and message.complete:
            self._answer_refusal(head.refused, sqlstate)
            sqlstate = head.refused.sqlstate
        self._pipeline.failed(head, sqlstate, fatal=fatal)

    def _answer_refusal(self, refusal: Refusal, sqlstate: str) -> None:
        """Replaces the error of the replacement message by the refusal."""
        failed = SqlState.IN_FAILED_SQL_TRANSACTION
        if sqlstate == failed or self._state.transaction_status == TransactionStatus.FAILED:
            self._stream.replace(messages.error_response("ERROR", failed, _ABORTED))
        else:
            self._stream.replace(messages.error_response("ERROR", refusal.sqlstate, refusal.text, hint=refusal.hint))

    def ready(self, message: Framer) -> None:
        status = message.buffer[message.start + 5 : message.start + 6].decode("ascii", "replace")
        self._state.transaction_status = status
        if not self._pipeline.ready():
            self._stream.drop()
            self._stream.report_rows(False)
            return
        if status == TransactionStatus.IDLE:
            if self.defined:
                self.defined = False
                self._output.made().defined = True
            self._pipeline.end_transaction()
            self._token.end_transaction()
        self._token.renew(may_inject=not self._client.streaming)
