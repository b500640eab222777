"""The backend's half once it is ready: which message of the client's each answer belongs to, and what it says of a statement's end.

One method a message (the table is in states.py). An answer to a message of the proxy's own goes no further.
"""

from __future__ import annotations

from collections import deque

from secretproxy.session.connection import FROM_BACKEND, Entry
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    COPY_END,
    DESCRIBE,
    INJECTED,
    PARSE,
    SYNC,
    Describing,
    Prepared,
    Refusal,
    Running,
    Undo,
)
from secretproxy.session.states import Phase
from secretproxy.session.testified import Testified
from secretproxy.wire import messages
from secretproxy.wire.types import BackendMessage, ErrorField, SqlState

# How the tags begin of statements that may change what leads to a secret function, themselves or in what they run.
_DEFINING = frozenset({b"CREA", b"ALTE", b"DROP", b"IMPO", b"DO", b"CALL"})

_ABORTED = "current transaction is aborted, commands ignored until end of transaction block"


class Answers(Testified):
    """A session that reads its backend."""

    def _pop(self, kind: int) -> None:
        self._heard = True
        head = self._head()
        if head == INJECTED:
            self._drop()
        elif isinstance(head, Undo):
            if head.kind == kind:
                self._pending.popleft()
                self._settle(head)
        elif head == kind:
            self._pending.popleft()

    def backend_plain(self) -> None:
        """Goes on as it came."""
        if self._backend.kind != BackendMessage.NOTIFICATION_RESPONSE:
            self._heard = True
            if self._head() == INJECTED:
                self._drop()

    def backend_parse_complete(self) -> None:
        self._pop(PARSE)

    def backend_bind_complete(self) -> None:
        self._pop(BIND)

    def backend_close_complete(self) -> None:
        self._pop(CLOSE)

    def backend_parameter_description(self) -> None:
        framer = self._backend
        head = self._head()
        if isinstance(head, Describing) and framer.complete:
            head.statement.types = messages.parameter_types(framer.buffer, framer.start, framer.end)

    def backend_row_description(self) -> None:
        self._heard = True
        head = self._head()
        if head == DESCRIBE or isinstance(head, Describing):
            self._pending.popleft()
        elif head == INJECTED:
            self._drop()

    def backend_complete(self) -> None:
        """CommandComplete or EmptyQueryResponse."""
        self._heard = True
        head = self._head()
        if head == INJECTED:
            self._drop()
            return
        framer = self._backend
        if framer.kind == BackendMessage.COMMAND_COMPLETE and framer.end - framer.start > 5:
            tag = framer.buffer[framer.start + 5 : min(framer.end - 1, framer.start + 16)]
            if tag in (b"RESET", b"DISCARD ALL"):
                self._token_lost = True
            elif tag == b"PREPARE" and isinstance(head, Running) and head.prepared:
                del head.prepared[0]
            elif tag in (b"ROLLBACK", b"COMMIT") and self.transaction_status == "E":
                self.transaction_status = "T"
            elif tag[:4] in _DEFINING:
                self._defined = True
            if tag == b"ROLLBACK" and self._token_inside:
                # Back to what the setting was before, which may be none.
                self._token_lost = True
            due = len(self._pending) - 1
            if tag == b"DISCARD ALL" and (due <= 0 or (due == 1 and self._pending[1] == SYNC)):
                # With more under way, names may be new ones already.
                self._forget()
        if isinstance(head, Prepared) or (isinstance(head, Running) and head.protocol == "extended"):
            self._pending.popleft()
            self._ended += 1
            if isinstance(head, Running):
                self._end(head, "ok")
        self._copying = False

    def backend_suspended(self) -> None:
        self._heard = True
        head = self._head()
        if isinstance(head, Prepared):
            self._pending.popleft()
            self._ended += 1
        elif isinstance(head, Running) and head.protocol == "extended":
            self._pending.popleft()
            self._ended += 1
            portal = head.portal
            if portal is None or not portal.current or portal.suspended is not None:
                # Known by testimony alone, or executed again or replaced already: the next Execute is a statement of its own.
                self._end(head, "ok")
            elif head.in_the_log:
                portal.suspended = head
                self._suspended[portal] = None

    def backend_copy_in(self) -> None:
        """CopyInResponse: until CopyDone or CopyFail the backend overlooks Sync and Flush (CopyGetData, copyfromparse.c)."""
        self._heard = True
        if self._head() is None:
            return
        pending = self._pending
        head = pending.popleft()
        kept: list[Entry] = []
        ended = False
        for entry in pending:
            if ended:
                kept.append(entry)
            elif entry == COPY_END:
                ended = True
            elif entry != SYNC:
                kept.append(entry)
        self._pending = deque([head, *kept])
        self._copying = not ended

    def backend_error(self) -> None:
        framer = self._backend
        found = messages.fields(framer.buffer, framer.start, min(framer.end, len(framer.buffer)))
        sqlstate = found.get(ErrorField.SQLSTATE, b"").decode("ascii", "replace")
        severity = found.get(ErrorField.SEVERITY_NONLOCALIZED, found.get(ErrorField.SEVERITY, b""))
        fatal = severity in (b"FATAL", b"PANIC")
        if self.phase is Phase.GREETING:
            if fatal:
                self._release(framer.start)
                self._let_on(self._greeting_z)
                self.phase = Phase.CLOSED
            else:
                self._drop()
                self._token_lost = self._greeting == "token"
            return
        if self.phase is Phase.LOGIN:
            self.login_refusal = sqlstate
            return
        self._heard = True
        self._copying = False
        head = self._head()
        if head is None:
            return
        if head == INJECTED:
            if not fatal:
                self._drop()
                # Cancelled, perhaps: another try behind the next statement.
                self._token_lost = True
            return
        if isinstance(head, Running) and head.refused is not None and not fatal and framer.complete:
            self._answer_refusal(head.refused, sqlstate)
            sqlstate = head.refused.sqlstate
        if self._query_like(head):
            if isinstance(head, Running):
                head.failed = True
                head.sqlstate = sqlstate
            elif fatal:
                self._pending.popleft()
            return
        if head == SYNC:
            return
        self._skip(sqlstate)

    def _answer_refusal(self, refusal: Refusal, sqlstate: str) -> None:
        if sqlstate == SqlState.IN_FAILED_SQL_TRANSACTION or self.transaction_status == "E":
            self._replace(messages.error_response("ERROR", SqlState.IN_FAILED_SQL_TRANSACTION, _ABORTED))
        else:
            self._replace(messages.error_response("ERROR", refusal.sqlstate, refusal.text, hint=refusal.hint))

    def backend_ready(self) -> None:
        framer = self._backend
        status = framer.buffer[framer.start + 5 : framer.start + 6].decode("ascii", "replace")
        head = self._head()
        heard, self._heard = self._heard, False
        if head == INJECTED:
            self._pending.popleft()
            self._drop()
            framer.actions = FROM_BACKEND
            self.transaction_status = status
            return
        self.transaction_status = status
        self._copying = False
        # An error has been seen and no Sync is left: this answers one that was taken for overlooked during COPY.
        self._skipping = False
        if heard or head == SYNC:
            self._pop_cycle()
        pending = self._pending
        if self._between is not None:
            self._end(self._between, "ok")
            self._between = None
        if status == "I":
            self._transaction_over()
        if self._token_version and self._keys.version != self._token_version:
            self._token_lost = True
        if self._token_lost and not pending and status != "E" and not self._client.streaming and self.phase is Phase.READY:
            self._renew_token()
