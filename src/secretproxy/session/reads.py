"""The commonest read of a secret, taken at once: its messages in one chunk, and its whole answer.

A statement that does nothing but read one secret is sealed (Sealing of stream.py): it runs at once, and its answer is
kept until one row of the log says all of it. Each time it runs, the owner and the name that it is given are new, and
what its testimony says; all else is as it was the last time. So where such a statement comes while nothing else is
under way and no transaction is open, as a Query whose text is known or as Bind, Execute and Sync of what was prepared,
it is one object here and one entry of the pipeline, and its answer is one Step. That answer is BindComplete,
RowDescription, the testimony of the very call, rows, the end of a SELECT, and ReadyForQuery outside a transaction; the
testimony may come in a chunk ahead of the rows, as PostgreSQL sends it.

Whatever else comes, from either side, is left to the streams and the handlers (`settle`): they find the statement as
if they had seen its messages, and read the answer from its beginning. No event, no byte and no state may differ by
who has taken a read (tests/unit/test_reads.py). walk.py knows where a message stands in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64, mypyc_attr

from secretproxy.detect import ResolvedCall, Verdict
from secretproxy.detect.arguments import (
    NO_VALUES,
    TEXT_OIDS,
    Argument,
    Constant,
    Parameter,
    read_uuid,
    spelled_uuid,
)
from secretproxy.session.events import Event, Timing
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Pipeline
from secretproxy.session.statements import (
    BIND,
    DESCRIBE,
    Owner,
    Portal,
    Prepared,
    ReadPlan,
    Running,
    Tally,
    call_key,
)
from secretproxy.session.states import State
from secretproxy.session.step import Held, Step
from secretproxy.session.stream import MOST_KEPT, READER, BackendStream, Sealing, reads
from secretproxy.session.testimony import Matching, Testimony, Token
from secretproxy.session.walk import (
    ANSWER_ENDS,
    DESCRIBED,
    HEARD,
    NAME,
    NOTICE_BITS,
    NOTICE_SHIFT,
    NOTICE_SIZE_SHIFT,
    READERS,
)
from secretproxy.wire.types import TransactionStatus

# Compiled, they are at hand.
_bound: Final[Callable[[bytes, int, int, int], tuple[bytes | None, str | None] | None]] = READERS[1]
_walk_read: Final[Callable[[bytes, int], int]] = READERS[0]

# What goes before an Execute, as in plain.py.
_BIND_ALONE: Final[tuple[int, ...]] = (BIND,)
_DESCRIBED: Final[tuple[int, ...]] = (BIND, DESCRIBE)
# Owners by the bytes of a Bind that they were read from.
_KEPT_OWNERS: Final = 4096
_owners: dict[bytes, Owner] = {}


@mypyc_attr(free_list_len=1)
class Read(Timing):
    """A read that is under way: its statement, and what it was given. It is the timing of its event itself."""

    __slots__ = ("asked", "heard", "kept", "name", "number", "owner", "plan", "statement", "text")

    def __init__(
        self, plan: ReadPlan, statement: Verdict, text: bytes | None, owner: Owner, name: str, asked: i64
    ) -> None:
        """`asked`: as walk.py says it."""
        super().__init__()
        self.plan = plan
        self.statement = statement
        self.text = text
        self.owner = owner
        self.name = name
        self.asked: i64 = asked
        self.number = 0
        # The beginning of the answer, once that ends with a testimony that is right, and that testimony.
        self.kept = b""
        self.heard: Testimony | None = None

    def __repr__(self) -> str:
        return f"Read(no={self.number})"


class Reads:
    """Takes reads where nothing else is under way. One at a time, as Sealing does."""

    def __init__(
        self,
        state: State,
        stream: BackendStream,
        names: Names,
        pipeline: Pipeline,
        sealing: Sealing,
        token: Token,
        matching: Matching,
    ) -> None:
        self._state: Final = state
        self._stream: Final = stream
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._sealing: Final = sealing
        self._token: Final = token
        self._matching: Final = matching
        # The read whose answer is waited for.
        self.read: Read | None = None
        # The Step of each answer: whoever carries it out is done with one before there is another.
        self._answer: Final = Held(b"")
        self._step: Final = Step()
        self._step.replaceable = True
        self._step.held.append(self._answer)
        self._step.commit.append(Event("access", state.identity))
        # The verdict of the last Query, and its plan: of many such texts one is asked for again and again.
        self._verdict: Verdict | None = None
        self._plan: ReadPlan | None = None

    # --- the client's ---

    def _may_read(self) -> bool:
        """Tells whether a read may be taken here, where nothing else is under way."""
        state = self._state
        if state.transaction_status != TransactionStatus.IDLE or state.codec != "utf-8" or state.raw:
            return False
        return self._sealing.takes_reads() and self._stream.framer.at_boundary

    def takes_bound(self, data: bytes, statement: Prepared, name: i64, asked: i64) -> bool:
        """Takes a pipeline that binds a statement to the unnamed portal and executes that, if it is a read. `name`: the
        length of the statement's name."""
        plan = statement.plan
        if plan is None or plan.types is not statement.types:
            plan = statement.plan = _planned(statement.verdict, statement.types)
        call = plan.call
        if call is None or not self._may_read() or self._names.portals_full(b""):
            return False
        given = _bound(data, NAME + name + 1, plan.owner_at, plan.name_at)
        if given is None:
            return False
        raw, text = given
        owner = plan.owner if raw is None else _owners.get(raw)
        if owner is None:
            owner = None if raw is None else _owner(raw)
            if owner is None:
                return False
        if text is None:
            assert call.names is not None
            text = call.names[0] or ""
        self._enter(Read(plan, statement.verdict, statement.text, owner, text, asked), statement)
        return True

    def takes_query(self, text: bytes) -> bool:
        """Takes a Query if its text is known, and a read."""
        if b"\\" in text:
            return False
        verdict = self._state.detector.cached(text, self._state.codec)
        if verdict is None or not verdict.only_reads or not self._may_read():
            return False
        if verdict is not self._verdict:
            self._verdict = verdict
            self._plan = _planned_query(verdict)
        plan = self._plan
        if plan is None or plan.call is None:
            return False
        owner, names = plan.owner, plan.call.names
        assert owner is not None
        assert names is not None
        kept = text if len(text) <= self._state.limits.parse_thread_bytes else None
        self._enter(Read(plan, verdict, kept, owner, names[0] or "", 0), text)
        return True

    def _enter(self, read: Read, whole: Prepared | bytes) -> None:
        pipeline = self._pipeline
        if isinstance(whole, bytes):
            pipeline.enter_whole(whole, ())
        else:
            pipeline.enter_whole(whole, _DESCRIBED if read.asked & DESCRIBED else _BIND_ALONE)
        read.number = pipeline.started
        self.read = read

    # --- the backend's ---

    def takes_backend(self, data: bytes) -> bytes | Step | None:
        """Takes a chunk of the backend's if it is the answer to the read that is under way: gives what is to be done
        with it. None if it is another one."""
        read = self.read
        assert read is not None
        if self._state.client_gone or len(data) + len(read.kept) > MOST_KEPT or not self._token.is_set:
            return None
        testimony = read.heard
        found: i64 = _walk_read(data, read.asked if testimony is None else HEARD)
        if found == 0:
            return None
        if testimony is None:
            start: i64 = (found >> NOTICE_SHIFT) & NOTICE_BITS
            end: i64 = start + (found >> NOTICE_SIZE_SHIFT)
            call = read.plan.call
            assert call is not None
            testimony = self._matching.says(
                data, int(start), int(end), call.function, read.owner.id, read.owner.written, read.name
            )
            if testimony is None:
                return None
            if found & ANSWER_ENDS == 0:
                # The rest comes at once. Until then nothing is known of it.
                read.kept = data
                read.heard = testimony
                return b""
            answer = data[:start] + data[end:]
        else:
            start = (_walk_read(read.kept, read.asked) >> NOTICE_SHIFT) & NOTICE_BITS
            answer = read.kept[:start] + data
        return self._answered(read, testimony, answer)

    def _answered(self, read: Read, testimony: Testimony, answer: bytes) -> Step:
        """Takes the whole answer, as Pipeline, Backend and Sealing would."""
        state, plan = self._state, read.plan
        call = plan.call
        assert call is not None
        self.read = None
        self._matching.heard(testimony)
        self._pipeline.answer_whole()
        if plan.protocol == "extended":
            # Its portal ends with its transaction.
            self._names.end_portals()
        else:
            self._names.end_transaction()
        self._token.end_transaction()
        event = Event(
            "access",
            state.identity,
            read.number,
            call.function,
            call.operation,
            read.owner.id,
            testimony.names,
            None,
            None,
            plan.protocol,
            plan.fingerprint,
            testimony.role,
            testimony.jwt_user,
            "ok",
            None,
            1,
            read,
        )
        self._answer.data = answer
        step = self._step
        step.commit[0] = event
        return step

    # --- whatever else comes ---

    def settle(self) -> bytes:
        """Leaves the read that is under way to the handlers, as if they had taken its messages. Gives the beginning of
        its answer, which they are to take too."""
        read = self.read
        if read is None:
            return b""
        self.read = None
        plan = read.plan
        call = plan.call
        assert call is not None
        attempt = ResolvedCall(call.function, call.operation, read.owner.id, (read.name,), None, exact=True)
        portal = undo = None
        whole = self._pipeline.whole
        if isinstance(whole, Prepared):
            portal = Portal(whole, (attempt,), NO_VALUES, len(read.name))
            undo = self._names.bind(b"", portal)
        running = Running(plan.protocol, read.statement, read.text, portal)
        running.attempts = (attempt,)
        running.covered = {call_key(attempt.function, attempt.owner, attempt.names): Tally()}
        running.timing = read
        self._pipeline.spell_out(undo, running)
        self._sealing.seal(running)
        return read.kept


def _planned(verdict: Verdict, types: tuple[int, ...]) -> ReadPlan:
    """Plans what is prepared, for these types of its parameters."""
    none = ReadPlan(types)
    if not _reads_one(verdict):
        return none
    found = verdict.calls[0].found(types)
    if found is None or found.function is None or found.takes_array:
        return none
    owner_at, name_at = _place(found.owner), _place(found.secret)
    if owner_at is None or name_at is None:
        return none
    if name_at and (types[name_at - 1] if name_at <= len(types) else 0) not in TEXT_OIDS:
        return none
    # What is a constant, the text shows.
    resolved = verdict.calls[0].resolve(NO_VALUES)
    owner, names = resolved.owner, resolved.names
    if (owner is None and not owner_at) or (names is None and not name_at) or found.function.encoding is not None:
        return none
    call = ResolvedCall(found.signature, found.operation, owner, names, None, exact=True)
    if not reads(call):
        return none
    # The one object of all sessions: the log's lines are recognised by that.
    call.function = READER
    return ReadPlan(
        types, call, None if owner is None else Owner(owner), owner_at, name_at, "extended", verdict.fingerprint
    )


def _planned_query(verdict: Verdict) -> ReadPlan | None:
    """Plans a Query; None if it is no read of one secret."""
    if not _reads_one(verdict):
        return None
    call = verdict.calls[0].resolve(NO_VALUES)
    if not call.exact or call.owner is None or call.names is None or len(call.names) != 1 or call.encoding is not None:
        return None
    if not reads(call):
        return None
    call.function = READER
    return ReadPlan((), call, Owner(call.owner), 0, 0, "simple", verdict.fingerprint)


def _reads_one(verdict: Verdict) -> bool:
    """Tells whether a verdict is that of one call, and of nothing else."""
    if not verdict.only_reads or len(verdict.calls) != 1 or verdict.fingerprint is None:
        return False
    return not (
        verdict.definitions or verdict.tables or verdict.prepares or verdict.cursors or verdict.executes
        or verdict.fetches or verdict.deallocates or verdict.closes
    )  # fmt: skip


def _place(argument: Argument) -> int | None:
    """Gives the number of a parameter, 0 for a constant, None for anything else."""
    if isinstance(argument, Parameter):
        return None if argument.array or argument.number < 1 else argument.number
    return 0 if isinstance(argument, Constant) else None


def _owner(raw: bytes) -> Owner | None:
    """Reads an owner that was not read before; None where it is not known to be a uuid."""
    if len(raw) == 16:
        found = Owner(read_uuid(raw))
    elif not raw.isascii():
        return None
    else:
        try:
            found = Owner(spelled_uuid(raw.decode("ascii")))
        except ValueError:
            return None
    if len(_owners) >= _KEPT_OWNERS:
        _owners.clear()
    _owners[raw] = found
    return found
