"""Seals the answer of a statement that only reads: the client gets none of it before the log has its access.

Such a statement has no effect, so it runs at once, and one row of the log is its attempt, calls and outcome together.
One of a session at a time. Where the answer is long, takes long or is more than the statement's own, its attempts are
committed as those of any other statement, and what was kept goes on behind them.
"""

from __future__ import annotations

from typing import Final

from secretproxy.detect import ResolvedCall
from secretproxy.session.events import Event
from secretproxy.session.pipeline import Outcomes, Pipeline, testifies
from secretproxy.session.statements import Running
from secretproxy.session.states import State
from secretproxy.session.step import Held, Step
from secretproxy.session.stream import BackendStream
from secretproxy.wire import messages
from secretproxy.wire.types import BackendMessage, SqlState, TransactionStatus

# Bytes of an answer that are kept; behind a chunk that exceeds it the attempts are committed.
MOST_KEPT: Final = 65_536
_READER: Final = "encrypted_secrets.secrets_getter(uuid,text,text)"
_WITHHELD: Final = "answer of a secret function withheld: the access log cannot be written"
_HINT: Final = "Other statements go on. See audit.dsn and audit.on_outage of secretproxy, and its log for the cause."
# What stays of an answer that is withheld: what is said of the messages before, the session's state, and the end.
_STAYS: Final = frozenset(
    {
        BackendMessage.PARSE_COMPLETE, BackendMessage.BIND_COMPLETE, BackendMessage.CLOSE_COMPLETE,
        BackendMessage.PARAMETER_DESCRIPTION, BackendMessage.ROW_DESCRIPTION, BackendMessage.NO_DATA,
        BackendMessage.PARAMETER_STATUS, BackendMessage.NOTIFICATION_RESPONSE, BackendMessage.READY_FOR_QUERY,
    }
)  # fmt: skip


class Sealing:
    """Keeps what the backend says from the moment a statement that only reads is sent until the log has it."""

    def __init__(self, state: State, stream: BackendStream, outcomes: Outcomes, pipeline: Pipeline) -> None:
        self._state: Final = state
        self._stream: Final = stream
        self._outcomes: Final = outcomes
        self._pipeline: Final = pipeline
        # The statement whose answer is sealed.
        self.running: Running | None = None
        self._kept: list[bytes] = []
        self._size = 0
        # What the log shall have of it, once it has ended.
        self._ended: list[Event] = []
        self._was_idle = False
        self._was_cut = False
        self._entered = 0
        self._cycles = 0

    @property
    def client_is_cut(self) -> bool:
        """Says whether the client has only a part of a message, if an answer is kept."""
        return self._was_cut if self._kept else self._stream.streaming

    @property
    def keeps(self) -> bool:
        return bool(self._kept or self._ended)

    def may_seal(self, attempts: tuple[ResolvedCall, ...]) -> bool:
        """Tells whether a statement that only reads may run at once, with an answer that is kept."""
        state = self._state
        if self.running is not None or not state.log.takes_accesses or not state.testifies or state.client_gone:
            return False
        if not attempts or not testifies(_READER, state.silent) or not self._pipeline.runs_nothing:
            return False
        for call in attempts:
            named = call.exact and call.owner is not None and call.names is not None
            if not named or call.function != _READER or call.via is not None:
                return False
        return True

    def seal(self, running: Running) -> None:
        """Keeps from here on what the backend says. The statement has been entered."""
        running.sealed = True
        self.running = running
        self._was_idle = self._state.transaction_status == TransactionStatus.IDLE
        self._was_cut = self._stream.streaming
        self._entered = self._pipeline.entered
        self._cycles = self._pipeline.cycles

    def take(self, out: bytes | Step) -> bytes | Step:
        """Takes what a chunk of the backend's would let on; gives what there is to do in its place."""
        if isinstance(out, Step):
            step = out
            if step.access:
                self._ended += step.access
                step.access = []
            if self._state.client_gone:
                # Nobody is there to keep it from.
                step.record = self.take_ended() + step.record
                return step
            self._keep(step.forward)
            step.forward = b""
            step.more = False
            if step.violation is not None and not step.commit:
                # The session ends: nothing of it goes on.
                return step
            if not step.commit and self._goes_on():
                return step
            return self._release(step)
        if self._state.client_gone:
            return out
        self._keep(out)
        return b"" if self._goes_on() else self._release(Step())

    def _keep(self, data: bytes) -> None:
        if data:
            self._kept.append(data)
            self._size += len(data)

    def _goes_on(self) -> bool:
        """Tells whether more of the answer is waited for. The ReadyForQuery to a Sync that was sent comes at once."""
        running = self.running
        assert running is not None
        if self._size > MOST_KEPT:
            return False
        if self._ended:
            return self._pipeline.owes_sync
        portal = running.portal
        return portal is None or portal.suspended is not running

    def open(self) -> Step | None:
        """Ends the keeping before the answer has ended: gives what is to be committed and what goes on behind it."""
        return None if self.running is None or self._state.client_gone else self._release(Step())

    def _release(self, step: Step) -> Step:
        running = self.running
        assert running is not None
        if self._ended:
            step.replaceable = not step.commit and self._is_alone()
        else:
            self._ended = self._outcomes.unsealed(running)
        step.commit = self._ended + step.commit
        step.held.insert(0, Held(b"".join(self._kept)))
        self._forget()
        return step

    def _is_alone(self) -> bool:
        """Tells whether what is kept is the statement's answer, whole messages up to its ReadyForQuery, and no
        transaction is open: then an error may take its place."""
        pipeline = self._pipeline
        if not pipeline.idle or pipeline.entered != self._entered or pipeline.cycles != self._cycles + 1:
            return False
        if not self._was_idle or self._state.transaction_status != TransactionStatus.IDLE:
            return False
        return not self._was_cut and self._stream.framer.at_boundary

    def take_ended(self) -> list[Event]:
        """Gives away what the log does not have yet of a statement that has ended, and whose client has not been told
        so."""
        ended = self._ended
        for event in ended:
            if event.outcome == "ok":
                event.outcome = "lost"
        if ended:
            self._forget()
        else:
            self._kept = []
        return ended

    def _forget(self) -> None:
        self.running = None
        self._kept = []
        self._size = 0
        self._ended = []


def withheld(answer: bytes) -> bytes:
    """Gives an answer, from its first message to its ReadyForQuery, with an error in place of what it says."""
    out: list[bytes] = []
    failed = False
    pos = 0
    while pos < len(answer):
        end = pos + 1 + int.from_bytes(answer[pos + 1 : pos + 5], "big")
        kind = answer[pos]
        if kind == BackendMessage.READY_FOR_QUERY and not failed:
            failed = True
            out.append(messages.error_response("ERROR", SqlState.IO_ERROR, _WITHHELD, hint=_HINT))
        if kind in _STAYS:
            out.append(answer[pos:end])
        pos = end
    return b"".join(out)
