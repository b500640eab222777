"""The two directions of a session: cuts messages out of the bytes, and is the one place where they go on, are held,
are dropped or replaced, or wait.

A stream owns its framer, and its bytes go on in the order in which they came. What only passes through is not copied.
The one hot loop of the project is `Framer.next`. It skips messages that nobody needs to see, stops at those that
somebody does, and never waits for the end of a long message unless it is told to (`demand`), so that memory stays
bounded whatever the size of a row, a COPY or a statement.

Message format: https://www.postgresql.org/docs/current/protocol-message-formats.html (one type byte, an int32 length
that counts itself, the content).
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from secretproxy.detect import ResolvedCall
from secretproxy.session.events import Event
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.statements import Running
from secretproxy.session.states import State
from secretproxy.session.step import Held, Output, Step
from secretproxy.wire import messages
from secretproxy.wire.errors import MalformedError, ProtocolViolationError
from secretproxy.wire.types import BackendMessage, FrontendMessage, SqlState, TransactionStatus

# What to do with a message of a type, an entry for each of the 256 type bytes.
PASS: Final = 0  # skipped: rows and COPY data
MARK: Final = 1  # reported by its type alone; a long one is reported at its first bytes
WHOLE: Final = 2  # reported once it is complete, up to SHORT bytes; a longer one at its first HEAD bytes

# The longest length that PostgreSQL takes: PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h.
LONGEST: Final = 0x3FFFFFFE

SHORT: Final = 65536
HEAD: Final = 1024


class Framer:
    """One direction of one connection.

    `push` a chunk, then call `next` until it says False. After each True, the message is `buffer[start:end]`,
    header included, of type `kind`; where `complete` is False only its first bytes are there and the rest will
    pass without being reported, unless more of it is asked for (`demand`). Afterwards `cut` is how much of
    `buffer` has been reported or skipped and may go on; what is left is kept for the next chunk.
    """

    def __init__(self, actions: bytes, max_message: int) -> None:
        self.actions = actions
        self.max_message: i64 = max_message
        self.buffer: bytes = b""
        self.cut: i64 = 0
        self.kind: i64 = 0
        self.start: i64 = 0
        self.end: i64 = 0
        self.complete: bool = True
        self._rest: bytes = b""
        self._part: bytearray = bytearray()
        self._need: i64 = 0
        self._skip: i64 = 0
        # Bytes of the message under way that must be there before it is reported again; 0: as its action says.
        self._wanted: i64 = 0

    @property
    def at_boundary(self) -> bool:
        """Says whether everything that was pushed ended with the end of a message."""
        return self._skip == 0 and self._need == 0 and len(self._rest) == 0

    @property
    def streaming(self) -> bool:
        """Says whether a message has been forwarded in part."""
        return self._skip > 0

    def push(self, data: bytes) -> None:
        """Takes the next chunk of the stream."""
        size: i64 = len(data)
        if self._need > 0:
            # One buffer that grows: as many parts as a client cares to send would weigh more than their bytes.
            self._part += data
            self._need -= size
            if self._need > 0:
                self.buffer = b""
                self.cut = 0
                return
            data = bytes(self._part)
            self._part = bytearray()
            self._need = 0
            size = len(data)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
            size = len(data)
        self.buffer = data
        if self._skip >= size:
            self._skip -= size
            self.cut = size
        else:
            self.cut = self._skip
            self._skip = 0

    def next(self) -> bool:
        """Goes on to the next message to be seen; False where the chunk has none left.

        Raises MalformedError for a length that no message can have, ProtocolViolationError for one that the
        settings do not allow. In one piece, as each message passes here: a call would cost more than its work.
        """
        data = self.buffer
        size: i64 = len(data)
        pos: i64 = self.cut
        actions = self.actions
        while True:
            if size - pos < 5:
                break
            length: i64 = (data[pos + 1] << 24) | (data[pos + 2] << 16) | (data[pos + 3] << 8) | data[pos + 4]
            if length < 4 or length > self.max_message:
                self.cut = pos
                if length < 4 or length > LONGEST:
                    raise MalformedError(f"message length {length} is out of range")
                raise ProtocolViolationError(f"message length {length} is out of range (limits.max_message)")
            end: i64 = pos + 1 + length
            kind: i64 = data[pos]
            action: i64 = actions[kind]
            if end <= size:
                if action == 0:
                    pos = end
                    continue
                self.complete = True
                self.cut = end
            elif action == 0:
                self._skip = end - size
                pos = size
                break
            else:
                wanted: i64 = self._wanted
                if wanted > 0:
                    upto: i64 = pos + wanted if pos + wanted < end else end
                    if upto > size:
                        # Wanted, and not all there: keep it. A long one is collected in parts, not glued chunk by
                        # chunk.
                        self._need = upto - size
                        self._part = bytearray(data[pos:])
                        self.cut = pos
                        self.buffer = data[:pos]
                        return False
                elif action == 2 and (length < SHORT or size - pos < HEAD):
                    break
                self.complete = False
                self._skip = end - size
                self.cut = size
            self.kind = kind
            self.start = pos
            self.end = end
            self._wanted = 0
            return True
        self.cut = pos
        if pos < size:
            self._rest = data[pos:]
            self.buffer = data[:pos]
        return False

    def demand(self, most: i64 = LONGEST) -> None:
        """Takes the message just reported in part back, to be reported once it is complete or `most` of its bytes
        are there."""
        self._skip = 0
        self.cut = self.start
        self._wanted = most

    def discard(self) -> int:
        """Ends the message just reported in part; gives how many of its bytes are still to come and must not be
        pushed."""
        rest = self._skip
        self._skip = 0
        return rest

    def forward_header(self) -> None:
        """Counts the head of the message that `next` called malformed among what may go on."""
        self.cut += 5

    def unread(self) -> None:
        """Takes the message just reported back: the next call of `next` reports it again."""
        if not self.complete:
            self._skip = 0
        self.cut = self.start


def actions(mark: bytes, whole: bytes, default: int = MARK) -> bytes:
    """Makes a table of actions: one byte for each type byte."""
    table = bytearray([default]) * 256
    for kind in mark:
        table[kind] = MARK
    for kind in whole:
        table[kind] = WHOLE
    return bytes(table)


def passing(table: bytes, kinds: bytes) -> bytes:
    """Gives the table of actions with messages of these types skipped."""
    return bytes(PASS if kind in kinds else action for kind, action in enumerate(table))


def compiled() -> bool:
    """Says whether this module runs as C."""
    return not __file__.endswith(".py")


# What is read must be whole, everything else is seen by its type. Rows and COPY data pass unseen, but for answers to
# the proxy's own.
FROM_BACKEND_OWN: Final = actions(
    mark=b"",
    whole=bytes(
        (
            BackendMessage.AUTHENTICATION, BackendMessage.BACKEND_KEY_DATA, BackendMessage.DATA_ROW,
            BackendMessage.ERROR_RESPONSE,
            BackendMessage.COMMAND_COMPLETE, BackendMessage.NEGOTIATE_PROTOCOL_VERSION, BackendMessage.NOTICE_RESPONSE,
            BackendMessage.PARAMETER_DESCRIPTION, BackendMessage.PARAMETER_STATUS, BackendMessage.READY_FOR_QUERY,
        )
    ),
)  # fmt: skip
FROM_BACKEND: Final = passing(FROM_BACKEND_OWN, bytes((BackendMessage.DATA_ROW, BackendMessage.COPY_DATA)))
FROM_CLIENT: Final = passing(
    actions(
        mark=b"",
        whole=bytes(
            (
                FrontendMessage.BIND, FrontendMessage.CLOSE, FrontendMessage.DESCRIBE, FrontendMessage.EXECUTE,
                FrontendMessage.FUNCTION_CALL, FrontendMessage.PARSE, FrontendMessage.QUERY,
            )
        ),
    ),
    bytes((FrontendMessage.COPY_DATA,)),
)  # fmt: skip

_LONGEST_LENGTH: Final = 0x7FFFFFFF


class Stream:
    """One direction. `_undecided_from` is where the bytes of this chunk begin that nothing was decided on yet."""

    def __init__(self, framer: Framer, output: Output) -> None:
        self.framer = framer
        self._output: Final = output
        self._undecided_from = 0
        # Whether what goes on waits for the log.
        self._holding = False

    @property
    def streaming(self) -> bool:
        """Says whether a message has been forwarded in part."""
        return self.framer.streaming

    def begin(self, data: bytes) -> None:
        """Takes the next chunk."""
        self.framer.push(data)
        self._output.begin()
        self._undecided_from = 0
        self._holding = False

    def forward_data(self, data: bytes) -> None:
        """Lets data go on in its place in the stream: at once, or behind what waits."""
        step = self._output.made()
        if not self._holding:
            step.forward += data
        elif data:
            step.held.append(Held(data))

    def release(self, upto: int) -> None:
        """Forwards the buffer up to here."""
        self.forward_data(self.framer.buffer[self._undecided_from : upto])
        self._undecided_from = upto

    def finish(self) -> bytes | Step:
        """Ends the chunk: gives the bytes to forward, or the Step if there is more to do."""
        framer = self.framer
        step = self._output.step
        if step is None:
            buffer, cut = framer.buffer, framer.cut
            return buffer if cut == len(buffer) else buffer[:cut]
        self.release(framer.cut)
        self._output.begin()
        return step


class ClientStream(Stream):
    """The client's bytes. Those that come before they may be read wait in `_waiting`."""

    def __init__(self, max_message: int, output: Output) -> None:
        super().__init__(Framer(FROM_CLIENT, max_message), output)
        self._max_message: Final = max_message
        self._waiting = bytearray()
        # Bytes of a message that was replaced, still to come.
        self._replaced_left = 0

    @property
    def waits(self) -> bool:
        """Says whether bytes of the client wait."""
        return bool(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        return len(self._waiting)

    @property
    def at_rest(self) -> bool:
        """Says whether nothing waits and no message is half sent."""
        return self.framer.at_boundary and len(self._waiting) == 0 and self._replaced_left == 0

    def keep(self, data: bytes) -> None:
        """Keeps bytes until they may be read."""
        self._waiting += data

    def take_waiting(self) -> bytes:
        """Gives away what waits."""
        data = bytes(self._waiting)
        self._waiting = bytearray()
        return data

    def begin(self, data: bytes) -> None:
        """Takes the next chunk, behind what waits."""
        if self._waiting:
            self._waiting += data
            data = self.take_waiting()
        if self._replaced_left:
            gone = min(self._replaced_left, len(data))
            self._replaced_left -= gone
            data = data[gone:]
        Stream.begin(self, data)

    def hold(self, start: int, end: int, running: Running) -> None:
        """Holds a message that is an attempt, and everything behind it, until the log has the attempt."""
        self.release(start)
        self._holding = True
        self._output.made().held.append(Held(self.framer.buffer[start:end], running))
        self._undecided_from = end

    def replace(self, message: bytes) -> None:
        """Replaces the message just reported by another one; drops the rest of it when it comes."""
        framer = self.framer
        self.forward_data(framer.buffer[self._undecided_from : framer.start] + message)
        self._undecided_from = framer.cut
        if not framer.complete:
            self._replaced_left = framer.discard()

    def keep_rest(self) -> None:
        """Keeps the rest of the chunk behind the message just reported, to be read in a later turn."""
        framer = self.framer
        self._waiting += framer.buffer[framer.cut :]
        framer.buffer = framer.buffer[: framer.cut]

    def keep_early(self) -> bytes:
        """Keeps what the client sent before it was let in; gives the bytes before that."""
        framer = self.framer
        before, rest = framer.buffer[: framer.cut], framer.buffer[framer.cut :]
        self.framer = Framer(FROM_CLIENT, self._max_message)
        self._waiting += rest
        return before


class BackendStream(Stream):
    """The backend's bytes."""

    def __init__(self, output: Output) -> None:
        super().__init__(Framer(FROM_BACKEND, _LONGEST_LENGTH), output)
        # Whether the rest of a message that is dropped is still to come.
        self._dropping = False
        # Where a message was dropped behind which the backend says more at once.
        self._more_at = 0

    def begin(self, data: bytes) -> None:
        """Takes the next chunk."""
        Stream.begin(self, data)
        self._more_at = 0
        if self._dropping:
            framer = self.framer
            self._output.made()
            self._undecided_from = framer.cut
            self._dropping = framer.streaming

    def hold(self) -> None:
        """Holds everything behind the message just dropped until the log has what it said."""
        self._holding = True

    def drop(self) -> None:
        """Keeps the message just reported from the client, and what of it has not come yet."""
        framer = self.framer
        self.release(framer.start)
        self._undecided_from = min(framer.end, len(framer.buffer))
        self._dropping = not framer.complete

    def expect(self) -> None:
        """Takes note that the backend is about to say more behind the message just dropped."""
        self._more_at = self._undecided_from

    def finish(self) -> bytes | Step:
        step = self._output.step
        if step is not None and self._more_at and self._more_at == len(self.framer.buffer) and not self._holding:
            step.more = True
        return Stream.finish(self)

    def replace(self, message: bytes) -> None:
        """Replaces the message just reported by another one."""
        self.drop()
        self.forward_data(message)

    def report_rows(self, wanted: bool) -> None:
        """Has rows reported, which otherwise pass unseen."""
        self.framer.actions = FROM_BACKEND_OWN if wanted else FROM_BACKEND


# Bytes of an answer that are kept; behind a chunk that exceeds it the attempts are committed.
MOST_KEPT: Final = 65_536
READER: Final = "encrypted_secrets.secrets_getter(uuid,text,text)"
_READER_NAME: Final = "secrets_getter"
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


def reads(call: ResolvedCall) -> bool:
    """Tells whether a call is one of the reader's own, and no other object leads to it."""
    return call.function == READER and call.via is None


class Sealing:
    """Keeps what the backend says from the moment a statement that only reads is sent until the log has it.

    Such a statement has no effect, so it runs at once, and one row of the log is its attempt, calls and outcome
    together. One of a session at a time. Where the answer is long, takes long or is more than the statement's own, its
    attempts are committed as those of any other statement, and what was kept goes on behind them.
    """

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

    def takes_reads(self) -> bool:
        """Tells whether the answer of any statement may be kept now."""
        state = self._state
        if self.running is not None or not state.log.takes_accesses or not state.testifies or state.client_gone:
            return False
        return _READER_NAME not in state.silent

    def may_seal(self, attempts: tuple[ResolvedCall, ...]) -> bool:
        """Tells whether a statement that only reads may run at once, with an answer that is kept."""
        if not attempts or not self.takes_reads() or not self._pipeline.runs_nothing:
            return False
        for call in attempts:
            if not call.exact or call.owner is None or call.names is None or not reads(call):
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
