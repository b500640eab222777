"""Checks the reads of secrets that are taken at once: which ones, and that no event, no byte and no state differs from
what their messages would have led to."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.session import walk
from secretproxy.session.events import Event
from secretproxy.session.interpreter import Nobody
from secretproxy.session.stream import MOST_KEPT
from secretproxy.wire.errors import ProtocolViolationError
from tests.support.effects import given as effects_given
from tests.unit.playbook import (
    BIND_COMPLETE,
    FLUSH,
    KEY,
    KEYS,
    NO_DATA,
    OWNER,
    PARSE_COMPLETE,
    PID,
    ROW_DESCRIPTION,
    START,
    SUSPENDED,
    SYNC,
    TERMINATE,
    Playbook,
    bind,
    close,
    complete,
    describe,
    error,
    execute,
    message,
    notice,
    parameter,
    parse,
    query,
    quoted,
    ready,
    row,
    testified,
)

READ = "SELECT encrypted_secrets.secrets_getter($1, $2)"
CONSTANTS = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
TEXT = str(OWNER).encode()
BOUND = bind([TEXT, b"key"], statement="r")
PIPELINE = BOUND + execute() + SYNC
DESCRIBED = BOUND + describe("P") + execute() + SYNC
END = row("the value") + complete() + ready()
NOTIFIED = message(b"A", b"\0\0\0\1channel\0said\0")
OTHER = uuid.UUID(int=OWNER.int + 1)


def prepare(play: Playbook) -> Playbook:
    """Plays the login, and has some reads and other statements prepared, and a Query's text known."""
    play.logged_in()
    play >> b"".join(
        [
            parse(READ, "r", [2950, 25]),
            parse(READ, "u"),
            parse(READ, "n", [2950, 23]),
            parse(CONSTANTS, "c"),
            parse(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', $1, 'd') AS v", "o"),
            parse("SELECT * FROM encrypted_secrets.secrets_getter($2, 'key') v", "f"),
            parse(f"{READ}, encrypted_secrets.secrets_getter($1, 'other')", "two"),
            parse(f"{READ} FROM t", "s"),
            parse("SELECT 1", "h"),
            SYNC,
        ]
    )
    play << PARSE_COMPLETE * 9 + ready()
    play.take()
    return play


def prepared(play: Playbook | None = None) -> Playbook:
    return prepare(Playbook(takes_accesses=True) if play is None else play)


class Waits(Playbook):
    """A session whose log is slow."""

    def commit_access(self, step: object) -> None:
        self.committed += step.commit  # type: ignore[attr-defined]

    def commit_testimony(self, step: object) -> None:
        self.committed += step.commit  # type: ignore[attr-defined]


def at_once(play: Playbook) -> bool:
    """Tells whether a read is under way that was taken at once."""
    return play.session.read_timing is not None


def fields(event: Event) -> tuple[object, ...]:
    return (
        event.event, event.statement_no, event.function, event.operation, event.owner_id, event.secret_names,
        event.encoding, event.via, event.protocol, event.fingerprint, event.role, event.accessed_by, event.outcome,
        event.sqlstate, event.calls,
    )  # fmt: skip


TAKEN = [
    (PIPELINE, BIND_COMPLETE, "key"),
    (DESCRIBED, BIND_COMPLETE + ROW_DESCRIPTION, "key"),
    (bind([OWNER.bytes, b"key"], statement="r", formats=[1, 0]) + execute() + SYNC, BIND_COMPLETE, "key"),
    (bind([OWNER.bytes, b"key"], statement="r", formats=[1]) + execute() + SYNC, BIND_COMPLETE, "key"),
    (bind([TEXT.upper(), "Schlüssel".encode()], statement="u") + execute() + SYNC, BIND_COMPLETE, "Schlüssel"),
    (bind([TEXT, b""], statement="u") + execute() + SYNC, BIND_COMPLETE, ""),
    (bind(statement="c") + execute() + SYNC, BIND_COMPLETE, "key"),
    (bind([b"key"], statement="o") + execute() + SYNC, BIND_COMPLETE, "key"),
    (bind([None, TEXT], statement="f") + execute() + SYNC, BIND_COMPLETE, "key"),
    (query(CONSTANTS), ROW_DESCRIPTION, "key"),
]


@pytest.mark.parametrize("cut", [False, True], ids=["in one chunk", "testimony first"])
@pytest.mark.parametrize(("chunk", "begun", "name"), TAKEN)
def test_a_read_and_its_answer_are_taken_at_once(chunk: bytes, begun: bytes, name: str, cut: bool) -> None:
    play = prepared()
    play >> query(CONSTANTS) << ROW_DESCRIPTION + quoted(clock=START + 1) + END
    play.take()
    for number in (2, 3):
        play >> chunk
        assert at_once(play) and play.to_backend == chunk and not play.session.idle
        said = quoted(name, clock=START + number)
        if cut:
            play << begun + said
            assert at_once(play) and play.to_client == b"" and not play.committed
            play << END
        else:
            play << begun + said + END
        assert not at_once(play) and play.session.idle and play.to_client == begun + END
        assert play.said == [("access", number, (name,), "ok", None, 1)]
        (event,) = play.committed
        assert event.owner_id == OWNER and event.timing.began is None
        assert event.protocol == ("simple" if chunk.startswith(b"Q") else "extended")
        play.take()


@pytest.mark.parametrize(
    "chunk",
    [
        PIPELINE[:-1],
        PIPELINE + SYNC,
        BOUND + execute() + FLUSH,
        query(CONSTANTS + " "),
        query(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', E'k\\\\')"),
        bind([TEXT, b"key"], statement="s") + execute() + SYNC,
        bind([TEXT, b"key"], statement="two") + execute() + SYNC,
        bind([TEXT, b"key"], statement="n") + execute() + SYNC,
        bind([TEXT, None], statement="r") + execute() + SYNC,
        bind([None, b"key"], statement="r") + execute() + SYNC,
        bind([TEXT], statement="r") + execute() + SYNC,
        bind([TEXT, b"\xff"], statement="r") + execute() + SYNC,
        bind([b"x" * 36, b"key"], statement="r") + execute() + SYNC,
        bind([OWNER.bytes, b"key"], statement="r") + execute() + SYNC,
        bind([TEXT, b"k" * 1025], statement="r") + execute() + SYNC,
        bind([TEXT, b"key"], statement="r", formats=[0, 0, 0]) + execute() + SYNC,
        bind([TEXT, b"key"], statement="r", portal="p") + execute("p") + SYNC,
        parse(CONSTANTS) + bind() + execute() + SYNC,
        message(b"B", b"\0r\0\0\0\0\x02\0\0\0\x09") + execute() + SYNC,
    ],
)
def test_nothing_else_is_taken_at_once(chunk: bytes) -> None:
    play = prepared()
    play >> chunk
    assert not at_once(play)


@pytest.mark.parametrize(
    "make",
    [
        lambda play: setattr(play.log, "takes_accesses", False),
        lambda play: play.session.expect_silence(frozenset({"secrets_getter"})),
        lambda play: play >> query("BEGIN") << complete("BEGIN") + ready("T"),
        lambda play: play << parameter("client_encoding", "LATIN1"),
        lambda play: play >> DESCRIBED,
        lambda play: play << notice("text")[:9],
    ],
    ids=["no accesses", "silent", "transaction", "encoding", "another read", "a cut message"],
)
def test_a_read_is_not_taken_at_once_where_more_depends_on_it(make: Callable[[Playbook], object]) -> None:
    play = prepared()
    make(play)
    play >> PIPELINE
    assert not at_once(play)


def test_the_log_is_told_of_each_read_that_is_taken_at_once() -> None:
    play = prepared()
    told: list[object] = []
    play.interpreter._log.seal = lambda timing, _: told.append(timing)  # type: ignore[method-assign]
    play >> PIPELINE
    assert told == [play.session.sealed] and play.session.sealed is not None


def test_nothing_goes_on_before_the_log_has_it() -> None:
    play = Waits(takes_accesses=True)
    prepare(play)
    play >> PIPELINE << BIND_COMPLETE + quoted() + END
    assert play.to_client == b"" and [event.event for event in play.committed] == ["access"]
    play >> query("SELECT 1") << ROW_DESCRIPTION + END
    assert play.to_client == b""
    play.interpreter.testimony_committed()
    assert play.to_client == BIND_COMPLETE + END + ROW_DESCRIPTION + END


def test_an_answer_that_the_log_does_not_take_is_withheld() -> None:
    play = prepared()
    play.refusing = True
    play >> PIPELINE << BIND_COMPLETE + quoted() + END
    assert b"the value" not in play.to_client and b"58030" in play.to_client and play.to_client.endswith(ready())
    assert [event.outcome for event in play.committed + play.recorded] == ["ok", "refused"]


@pytest.mark.parametrize(
    "said",
    [quoted("other"), quoted(owner=OTHER), quoted(pid=PID + 1), quoted(start=START + 1), quoted(key=bytes(32)), quoted(clock=0)],
    ids=["name", "owner", "process", "start", "key", "played again"],
)  # fmt: skip
def test_a_testimony_that_is_not_the_calls_is_told_before_anything_goes_on(said: bytes) -> None:
    play = Waits(takes_accesses=True)
    prepare(play)
    play >> PIPELINE << BIND_COMPLETE + said
    assert play.to_client == b"" and {event.event for event in play.committed} <= {"attempt", "call", "forgery"}
    assert len(play.committed) == 2 and not at_once(play)


def test_an_answer_without_a_testimony_says_that_nothing_was_called() -> None:
    play = prepared()
    play >> PIPELINE << BIND_COMPLETE + END
    assert play.said == [("access", 1, ("key",), "ok", None, 0)]


def test_a_long_answer_is_committed_as_an_attempt() -> None:
    play = prepared()
    play >> PIPELINE << BIND_COMPLETE + quoted() << row("v" * MOST_KEPT)
    assert [event.event for event in play.committed] == ["attempt"]
    play << complete() + ready()
    assert play.recorded[0].calls == 1


@pytest.mark.parametrize("begun", [b"", BIND_COMPLETE + quoted()])
def test_a_read_that_takes_long_is_an_attempt(begun: bytes) -> None:
    play = prepared()
    play >> PIPELINE
    if begun:
        play << begun
    assert play.session.keeps_answer is bool(begun)
    assert play.interpreter.unseal() and [event.event for event in play.committed] == ["attempt"]
    play << (END if begun else BIND_COMPLETE + quoted() + END)
    assert play.to_client == BIND_COMPLETE + END and play.recorded[0].calls == 1


@pytest.mark.parametrize("begun", [b"", BIND_COMPLETE + quoted()])
def test_a_read_whose_backend_is_lost_is_lost(begun: bytes) -> None:
    play = prepared()
    play >> PIPELINE
    if begun:
        play << begun
    (event,) = play.session.lost()
    assert (event.event, event.outcome, event.calls) == ("access", "lost", len(begun) and 1)


def test_a_read_whose_client_has_gone_is_lost() -> None:
    play = prepared()
    play >> PIPELINE << BIND_COMPLETE + quoted()
    play.session.client_gone = True
    play.interpreter.lose_client()
    play.interpreter.read_orphan(Nobody(), *effects_given(play)[1:])
    play << END
    assert play.said == [("access", 1, ("key",), "lost", None, 1)] and play.to_client == b""


def test_keys_that_change_behind_a_testimony_make_no_forgery_of_it() -> None:
    play = prepared()
    play >> PIPELINE << BIND_COMPLETE + quoted()
    KEYS.replace({2: KEY})
    try:
        play << END
    finally:
        KEYS.replace({1: KEY})
    assert play.said == [("access", 1, ("key",), "ok", None, 1)] and b"secretproxy.session" in play.injected


# --- the same as by messages ------------------------------------------------------------------------------------------

# What a client says, and what is answered; `clock` is later each time.
Answer = Callable[[int], bytes]


def _read(begun: bytes, name: str = "key", end: bytes = END) -> Answer:
    return lambda clock: begun + quoted(name, clock=clock) + end


def _said(said: Callable[..., bytes], **given: object) -> Answer:
    return lambda clock: BIND_COMPLETE + said(clock=clock, **given) + END


def _always(answer: bytes) -> Answer:
    return lambda clock: answer


READS: list[tuple[bytes, Answer]] = [(chunk, _read(begun, name)) for chunk, begun, name in TAKEN]
EXCHANGES: list[tuple[bytes, Answer]] = [
    (bind([str(OTHER).encode(), b"key"], statement="u") + execute() + SYNC, _said(quoted, owner=OTHER)),
    (bind([OTHER.bytes, b"key"], statement="r", formats=[1, 0]) + execute() + SYNC, _said(quoted, owner=OTHER)),
    (PIPELINE, lambda clock: BIND_COMPLETE + quoted(clock=clock, start=START + 1) + END),
    (PIPELINE, _always(BIND_COMPLETE + END)),
    (PIPELINE, _always(BIND_COMPLETE + quoted(clock=5) + END)),
    (PIPELINE, _said(quoted, owner=OTHER)),
    (PIPELINE, _said(quoted, name="other")),
    (PIPELINE, _said(quoted, key=bytes(32))),
    (PIPELINE, _said(quoted, texts="'it''s' 'app' 'none'")),
    (PIPELINE, _said(quoted, texts="'key' 'app' 'admin'")),
    (PIPELINE, _said(testified)),
    (PIPELINE, _said(testified, jwt=OTHER)),
    (PIPELINE, lambda clock: BIND_COMPLETE + quoted(clock=clock) + quoted(clock=clock + 1) + END),
    (PIPELINE, lambda clock: BIND_COMPLETE + quoted(clock=clock) + error("22023") + ready()),
    (PIPELINE, lambda clock: BIND_COMPLETE + notice("text") + quoted(clock=clock) + END),
    (PIPELINE, lambda clock: BIND_COMPLETE + quoted(clock=clock) + notice("text") + END),
    (PIPELINE, _read(BIND_COMPLETE, end=parameter("TimeZone", "UTC") + END)),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + complete() + ready("T"))),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + complete() + ready("E"))),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + complete("INSERT 0 1") + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + SUSPENDED + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=complete("SELECT 0") + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v" * MOST_KEPT) + complete() + ready())),
    (PIPELINE, _always(error("57014") + ready())),
    (DESCRIBED, _read(BIND_COMPLETE)),
    (DESCRIBED, _read(BIND_COMPLETE + NO_DATA)),
    (BOUND + execute("", 1) + SYNC, _read(BIND_COMPLETE, end=row("v") + SUSPENDED + ready())),
    (BOUND + SYNC, _always(BIND_COMPLETE + ready())),
    (BOUND + SYNC, _always(BIND_COMPLETE + ready("T"))),
    (bind([None, b"key"], statement="r") + execute() + SYNC, _always(BIND_COMPLETE + END)),
    (bind([TEXT, b"key"], statement="two") + execute() + SYNC, _read(BIND_COMPLETE)),
    (bind([TEXT, b"key"], statement="s") + execute() + SYNC, _read(BIND_COMPLETE)),
    (bind([TEXT, b"key"], statement="r", portal="p") + execute("p") + SYNC, _read(BIND_COMPLETE)),
    (bind(statement="h") + execute() + SYNC, _always(BIND_COMPLETE + END)),
    (bind(statement="h") + SYNC, _always(BIND_COMPLETE + ready())),
    (execute() + SYNC, _always(END)),
    (parse(CONSTANTS, "h") + SYNC, _always(PARSE_COMPLETE + ready())),
    (close("S", "r") + SYNC, _always(message(b"3") + ready())),
    (query(CONSTANTS), _always(error("22023") + ready())),
    (query("BEGIN"), _always(complete("BEGIN") + ready("T"))),
    (query("COMMIT"), _always(complete("COMMIT") + ready())),
    (query("DISCARD ALL"), _always(complete("DISCARD ALL") + ready())),
    (query("SELECT 1"), _always(ROW_DESCRIPTION + END)),
    (b"", _always(parameter("application_name", "other"))),
    (b"", _always(END)),
    (FLUSH, _always(b"")),
    (TERMINATE, _always(b"")),
    # What may come between and behind, and what a client that knows all this sends.
    (PIPELINE, _read(BIND_COMPLETE, end=NOTIFIED + END)),
    (PIPELINE, _read(BIND_COMPLETE, end=END + NOTIFIED)),
    (PIPELINE, _read(NOTIFIED + BIND_COMPLETE)),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + complete() + parameter("client_encoding", "LATIN1") + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + complete() + parameter("application_name", "x") + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + complete() + notice("late") + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + error("57P01", "FATAL"))),
    (PIPELINE, _read(BIND_COMPLETE, end=END + END)),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") + message(b"C", b"SELECT") + ready())),
    (PIPELINE, _read(BIND_COMPLETE, end=row("v") * 40 + complete("SELECT 40") + ready())),
    (PIPELINE + PIPELINE, lambda clock: _read(BIND_COMPLETE)(clock) + _read(BIND_COMPLETE)(clock + 1)),
    (PIPELINE + TERMINATE, _read(BIND_COMPLETE)),
    (BOUND + execute("", 1) + execute() + SYNC, _read(BIND_COMPLETE, end=row("v") + SUSPENDED + END)),
    (parse("SELECT 1", "r") + SYNC, _always(PARSE_COMPLETE + ready())),
    (parse(READ, "r", [25, 19]) + SYNC, _always(error("42P05") + ready())),
    (query("DEALLOCATE ALL"), _always(complete("DEALLOCATE ALL") + ready())),
    (bind([TEXT, b"it's"], statement="r") + execute() + SYNC, _read(BIND_COMPLETE, "it's")),
    (bind([TEXT, b"a\\b"], statement="r") + execute() + SYNC, _said(quoted, texts="E'a\\\\b' 'app' 'none'")),
    (bind([TEXT, b"key\0"], statement="r") + execute() + SYNC, _always(BIND_COMPLETE + error("22021") + ready())),
    (bind([b"urn:uuid:" + TEXT, b"key"], statement="u") + execute() + SYNC, _always(error("22P02") + ready())),
    (bind([OWNER.bytes * 2, b"key"], statement="r", formats=[1, 0]) + execute() + SYNC, _always(error("22P03") + ready())),
]  # fmt: skip
# Behind which part of the answer the next chunk begins: all of it in one, cut at every so many bytes, or behind its
# testimony, as PostgreSQL does it.
CUTS = st.sampled_from(["whole", "whole", "testimony", "testimony", "seven", "forty"])
# What comes between the question and its answer, or in the middle of that.
BETWEEN = st.sampled_from(["", "", "", "", "", "long", "long in it", "client"])
MOVES = st.lists(
    st.tuples(st.one_of(st.sampled_from(READS), st.sampled_from(EXCHANGES)), CUTS, BETWEEN), min_size=1, max_size=8
)


def chunks(data: bytes, how: str) -> list[bytes]:
    """Cuts a stream."""
    if how == "testimony":
        at = data.find(b"N\0")
        size = int.from_bytes(data[at + 1 : at + 5], "big") if at >= 0 else 0
        cut = at + 1 + size
        return [part for part in (data[:cut], data[cut:]) if part]
    size = {"whole": MOST_KEPT * 2, "seven": 7, "forty": 40}[how] + len(data) // 40 * (how != "whole")
    return [data[at : at + size] for at in range(0, len(data), size)]


class Told(Playbook):
    """A session whose moves are counted, and each of whose chunks may be cut behind its first byte."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__(takes_accesses=True)
        self.apart = apart
        self.taken = 0

    def play(self, side: str, chunk: bytes) -> str | None:
        """Plays a chunk; gives what ended the session."""
        try:
            for part in (chunk[:1], chunk[1:]) if self.apart else (chunk,):
                self >> part if side == "client" else self << part
        except ProtocolViolationError as violation:
            return str(violation)
        self.taken += at_once(self)
        return None

    @property
    def told(self) -> tuple[object, ...]:
        """Gives what a session has done and what it remembers."""
        session, pipeline = self.session, self.session.pipeline
        events = [[fields(event) for event in events] for events in (self.committed, self.recorded, self.refusals)]
        return (
            self.to_backend, self.to_client, self.injected, events, session.phase, session.idle, session.quiet,
            session.state.transaction_status, session.takes_terminate, session.answer_is_cut, session.waiting_bytes,
            session.keeps_answer, session.sealed is None, session.texts(), session.names.remembered, session.names.settled,
            pipeline.started, pipeline.entered, pipeline.cycles, pipeline.skipping,
            at_once(self) or (pipeline.due, session.matching._last_clock, session.names.portals_weigh()),
        )  # fmt: skip


def moved(play: Told, moves: list[tuple[tuple[bytes, Answer], str, str]]) -> list[tuple[object, ...] | str]:
    """Plays the moves; gives what was told behind each chunk."""
    prepare(play)
    play >> query(CONSTANTS) << ROW_DESCRIPTION + quoted(clock=1) + END
    found: list[tuple[object, ...] | str] = []
    play.taken = 0
    for number, ((said, answered), how, between) in enumerate(moves):
        answer = chunks(answered(START + 10 * number), how)
        steps = [("client", said), *(("backend", chunk) for chunk in answer)]
        if between:
            steps.insert(
                1 if between != "long in it" else 2, (between, query("SELECT 1") if between == "client" else b"")
            )
        for side, chunk in steps:
            if side.startswith("long"):
                play.interpreter.unseal()
            elif chunk:
                ended = play.play(side, chunk)
                if ended:
                    return [*found, ended]
            found.append(play.told)
        play.take()
    found.append(str([fields(event) for event in play.session.lost(broke=True)]))
    return found


def same(told: tuple[object, ...] | str, other: tuple[object, ...] | str) -> bool:
    """Compares what two sessions have told. What the beginning of an answer means is not known before the end."""
    if isinstance(told, str) or isinstance(other, str):
        return told == other
    return told[:-1] == other[:-1] and (told[-1] is True or told[-1] == other[-1])


@settings(max_examples=int(os.environ.get("READS_EXAMPLES", "60")), deadline=None, derandomize=True)
@given(MOVES)
def test_messages_one_by_one_lead_to_the_same(moves: list[tuple[tuple[bytes, Answer], str, str]]) -> None:
    """Plays the same moves to two sessions, to one of them with each chunk cut behind its first byte: nothing is taken
    at once there."""
    together, apart = Told(apart=False), Told(apart=True)
    one, other = moved(together, moves), moved(apart, moves)
    assert apart.taken == 0
    assert len(one) == len(other)
    for number, (told, expected) in enumerate(zip(one, other, strict=True)):
        assert same(told, expected), number


# --- what does the same in C ------------------------------------------------------------------------------------------

BYTES = st.sampled_from([*b"2TNDCZISELQB\0", 1, 2, 3, 4, 5, 6, 9, 16, 36, 127, 128, 255])
WALKED = [answer(START) for _, answer in READS + EXCHANGES] + [END, BIND_COMPLETE + quoted(), b""]
BINDS = [chunk for chunk, _ in READS + EXCHANGES if chunk.startswith(b"B")]


@pytest.mark.skipif(walk.READERS[0] is walk.walk_read, reason="nothing was compiled")
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.sampled_from(WALKED),
    st.sampled_from(BINDS),
    st.lists(st.tuples(st.integers(0, 90), BYTES), max_size=3),
    st.sampled_from([0, 0, 0, 1, 5, 6]),
)
def test_what_is_compiled_reads_as_what_is_not(
    answer: bytes, bound: bytes, changed: list[tuple[int, int]], cut: int
) -> None:
    walk_read, read_bound = walk.READERS
    data, given = bytearray(answer[: len(answer) - cut]), bytearray(bound[: len(bound) - cut])
    for pos, byte in changed:
        if pos < len(data):
            data[pos] = byte
        if pos < len(given):
            given[pos] = byte
    for asked in (0, 1, 5, 8):
        assert walk_read(bytes(data), asked) == walk.walk_read(bytes(data), asked)
    for start in (7, 8, 200):
        for owner, name in ((1, 2), (2, 1), (0, 1), (2, 0), (0, 0), (1, 1), (3, 2)):
            assert read_bound(bytes(given), start, owner, name) == walk.bound(bytes(given), start, owner, name)


def test_what_is_no_bytes_is_not_read() -> None:
    walk_read, read_bound = walk.READERS
    if walk_read is walk.walk_read:
        pytest.skip("nothing was compiled")
    for wrong in ("text", None, bytearray(30)):
        with pytest.raises(TypeError):
            walk_read(wrong, 1)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            read_bound(wrong, 1, 1, 2)  # type: ignore[arg-type]
