"""Checks the chunks that are taken at once: which ones, and that they leave the session as their messages would."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.session import walk
from secretproxy.session.session import Limits
from secretproxy.wire.errors import ProtocolViolationError
from tests.unit.playbook import (
    BIND_COMPLETE,
    EMPTY,
    FLUSH,
    KEY,
    KEYS,
    NO_DATA,
    OWNER,
    PARSE_COMPLETE,
    ROW_DESCRIPTION,
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

SECRET = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
PIPELINE = bind([b"1"], statement="h") + execute() + SYNC
DESCRIBED = bind([b"1"], statement="h") + describe("P") + execute() + SYNC
PARSED = parse("SELECT 2") + bind() + execute() + SYNC
PARSED_DESCRIBED = parse("SELECT 2") + bind() + describe("P") + execute() + SYNC
ROWS = row("1") + row("a", "b")


def prepared() -> Playbook:
    """Plays a session with a harmless statement h and a secret one s."""
    return prepare(Playbook())


def prepare(play: Playbook) -> Playbook:
    """Plays the login, and has both statements prepared."""
    play.logged_in()
    play >> parse("SELECT 1", "h") + parse(SECRET, "s") + SYNC
    play << PARSE_COMPLETE + PARSE_COMPLETE + ready()
    play.take()
    return play


def whole(play: Playbook) -> bool:
    """Tells whether what is due was entered whole."""
    return play.session.pipeline.whole is not None


@pytest.mark.parametrize(
    ("chunk", "due", "answer"),
    [
        (query("SELECT 1"), 1, ROW_DESCRIPTION + ROWS + complete()),
        (query("INSERT INTO t VALUES (1)"), 1, complete("INSERT 0 1")),
        (query("BEGIN"), 1, complete("BEGIN")),
        (PIPELINE, 3, BIND_COMPLETE + ROWS + complete()),
        (DESCRIBED, 4, BIND_COMPLETE + ROW_DESCRIPTION + ROWS + complete("SELECT 2")),
        (DESCRIBED, 4, BIND_COMPLETE + NO_DATA + complete("UPDATE 0")),
        (PARSED, 4, PARSE_COMPLETE + BIND_COMPLETE + complete("DELETE 0")),
        (PARSED_DESCRIBED, 5, PARSE_COMPLETE + BIND_COMPLETE + ROW_DESCRIPTION + ROWS + complete()),
    ],
    ids=["query", "insert", "begin", "pipeline", "described", "no-data", "parsed", "parsed-described"],
)
@pytest.mark.parametrize("status", ["I", "T"])
def test_a_statement_and_its_answer_are_taken_at_once(chunk: bytes, due: int, answer: bytes, status: str) -> None:
    play = prepared()
    play >> chunk
    assert whole(play) and play.session.pipeline.due == due and not play.session.idle
    play << answer + ready(status)
    assert not whole(play) and play.session.pipeline.idle and play.session.idle is (status == "I")
    assert play.session.state.transaction_status == status
    assert play.take() == (chunk, answer + ready(status)) and not play.said
    assert play.session.pipeline.started == 1


@pytest.mark.parametrize(
    "chunk",
    [
        query(SECRET),
        query("SELECT 1")[:-1],
        query("SELECT 1") + query("SELECT 2"),
        query("SELECT 1") + TERMINATE,
        message(b"Q", b"\0"),
        bind(statement="s") + execute() + SYNC,
        bind(statement="unknown") + execute() + SYNC,
        bind(statement="h", portal="p") + execute("p") + SYNC,
        bind(statement="h") + execute("p") + SYNC,
        bind(statement="h") + describe("S", "h") + execute() + SYNC,
        bind(statement="h") + execute() + FLUSH,
        bind(statement="h") + execute(),
        bind(statement="h") + SYNC,
        bind(statement="h") + execute() + execute() + SYNC,
        PIPELINE + SYNC,
        PIPELINE[:-1],
        parse(SECRET) + bind() + execute() + SYNC,
        parse("SELECT 1", "n") + bind(statement="n") + execute() + SYNC,
        parse("SELECT 1") + bind(statement="h") + execute() + SYNC,
        parse("SELECT 1") + describe("S") + SYNC,
        message(b"B", b"\0h") + execute() + SYNC + bytes(8),
        message(b"P", b"\0SELECT 1") + bind() + execute() + SYNC,
        close("S", "h") + SYNC + bytes(14),
    ],
)
def test_nothing_else_is_taken_at_once(chunk: bytes) -> None:
    play = prepared()
    with contextlib.suppress(ProtocolViolationError):
        play >> chunk
    assert not whole(play)


def test_a_chunk_behind_what_is_under_way_is_not_taken_at_once() -> None:
    play = prepared()
    play >> PIPELINE >> PIPELINE
    assert not whole(play) and play.session.pipeline.due == 6
    play << (BIND_COMPLETE + ROWS + complete() + ready()) * 2
    assert play.session.idle and play.session.pipeline.started == 2
    play >> query("SELECT 1")[:3] >> query("SELECT 1")[3:]
    assert not whole(play)
    play << ROW_DESCRIPTION + complete() + ready()
    play >> query("SELECT 1")
    assert whole(play)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (bind(statement="s") + SYNC, BIND_COMPLETE),
        (bind(statement="s", portal="p") + execute("p", 1) + SYNC, BIND_COMPLETE + quoted() + ROWS + SUSPENDED),
        (query("CREATE VIEW v AS SELECT 1"), complete("CREATE VIEW")),
        (parse(SECRET) + SYNC, PARSE_COMPLETE),
    ],
    ids=["secret-portal", "suspended", "catalog-changed", "secret-statement"],
)
def test_a_chunk_is_not_taken_at_once_where_more_depends_on_its_end(said: bytes, answer: bytes) -> None:
    play = prepared()
    play >> said << answer + ready("T")
    assert play.session.pipeline.idle
    play >> (PARSED if said.startswith(b"P") else PIPELINE)
    assert not whole(play)


def test_a_token_of_new_keys_is_set_behind_an_answer_taken_at_once() -> None:
    play = prepared()
    play >> PIPELINE
    assert whole(play)
    KEYS.replace({1: KEY, 2: KEY})
    try:
        play << BIND_COMPLETE + ROWS + complete() + ready()
        assert b"secretproxy.session" in play.injected
    finally:
        KEYS.replace({1: KEY})


def test_a_longer_message_than_is_allowed_is_not_taken_at_once() -> None:
    play = Playbook(limits=Limits(max_message=40)).logged_in()
    play >> query("SELECT 1")
    assert whole(play)
    play << complete() + ready()
    with pytest.raises(ProtocolViolationError):
        play >> query("SELECT 1" + " " * 40)


@pytest.mark.parametrize(
    "begun", [b"", BIND_COMPLETE, BIND_COMPLETE + ROW_DESCRIPTION, BIND_COMPLETE + ROW_DESCRIPTION + ROWS]
)
def test_what_a_statement_calls_unannounced_is_held(begun: bytes) -> None:
    play = prepared()
    play >> DESCRIBED
    assert whole(play)
    rest = complete() + ready()
    play << begun + testified() + rest
    assert [event.event for event in play.committed] == ["call"]
    assert play.held == rest and play.to_client == begun + rest


def test_an_error_ends_the_pipeline() -> None:
    play = prepared()
    play >> DESCRIBED << BIND_COMPLETE + error("22012")
    assert play.session.pipeline.due == 1
    play << ready()
    assert play.session.idle


@pytest.mark.parametrize(("chunk", "answer"), [(query("SELECT 1"), b""), (PIPELINE, BIND_COMPLETE)])
def test_a_lost_session_tells_of_what_may_have_run(chunk: bytes, answer: bytes) -> None:
    play = prepared()
    play.session.state.testifies = True
    play >> chunk
    assert whole(play)
    if answer:
        play << answer
    assert [(event.event, event.outcome) for event in play.session.lost(broke=True)] == [("refusal", "lost")]


# What a client says and what is answered, in any order, some of it cut and some answers others' than the question's.
ANSWER = BIND_COMPLETE + ROWS + complete() + ready()
EXCHANGES: list[tuple[bytes, bytes]] = [
    (query("SELECT 1"), ROW_DESCRIPTION + ROWS + complete() + ready()),
    (query("SELECT 1"), ROW_DESCRIPTION + ROWS + complete() + ready("T")),
    (query("SELECT v"), ROW_DESCRIPTION + testified() + ROWS + complete() + ready()),
    (query(SECRET), ROW_DESCRIPTION + quoted() + ROWS + complete() + ready()),
    (query("BEGIN"), complete("BEGIN") + ready("T")),
    (query("COMMIT"), complete("COMMIT") + ready()),
    (query("COMMIT"), complete("ROLLBACK") + ready()),
    (query("ROLLBACK"), complete("ROLLBACK") + ready()),
    (query("broken"), error("42601") + ready("E")),
    (query("DISCARD ALL"), complete("DISCARD ALL") + ready()),
    (query("SELECT reset()"), complete("RESET") + ready("E")),
    (query("CREATE VIEW v AS SELECT 1"), complete("CREATE VIEW") + ready("T")),
    (query("PREPARE q AS " + SECRET), complete("PREPARE") + ready()),
    (query("DECLARE c CURSOR FOR " + SECRET), complete("DECLARE CURSOR") + ready("T")),
    (query("EXECUTE q"), ROW_DESCRIPTION + ROWS + complete() + ready()),
    (PIPELINE, ANSWER),
    (PIPELINE, BIND_COMPLETE + complete("INSERT 0 1") + ready("T")),
    (PIPELINE, error("22012") + ready()),
    (DESCRIBED, BIND_COMPLETE + ROW_DESCRIPTION + ROWS + complete() + ready()),
    (DESCRIBED, BIND_COMPLETE + NO_DATA + complete("UPDATE 1") + ready("T")),
    (PARSED, PARSE_COMPLETE + BIND_COMPLETE + ROWS + complete() + ready()),
    (PARSED_DESCRIBED, PARSE_COMPLETE + BIND_COMPLETE + ROW_DESCRIPTION + ROWS + complete() + ready("T")),
    (PARSED, error("42601") + ready()),
    (PARSED, ready()),
    (PIPELINE + PIPELINE, ANSWER + ANSWER),
    (PIPELINE + PIPELINE, ANSWER),
    (b"", ANSWER),
    (PIPELINE, b""),
    (parse("SELECT 3", "h") + SYNC, PARSE_COMPLETE + ready()),
    (parse(SECRET) + SYNC, PARSE_COMPLETE + ready("T")),
    (parse(SECRET, "h") + bind(statement="h") + execute() + SYNC, error("42P05") + ready()),
    (bind(statement="s") + SYNC, BIND_COMPLETE + ready("T")),
    (bind(statement="s") + execute("", 1) + SYNC, BIND_COMPLETE + quoted() + ROWS + SUSPENDED + ready("T")),
    (bind(statement="s", portal="p") + execute("p", 1) + SYNC, BIND_COMPLETE + quoted() + ROWS + SUSPENDED + ready("T")),
    (bind(statement="h", portal="p") + SYNC, BIND_COMPLETE + ready("T")),
    (execute() + SYNC, ROWS + complete() + ready()),
    (close("P", "") + close("S", "h") + SYNC, message(b"3") + message(b"3") + ready()),
    (b"", parameter("application_name", "other") + notice("text") + message(b"A", b"1234x\0y\0")),
    (FLUSH, EMPTY),
]  # fmt: skip
CUTS = st.sampled_from([10_000, 10_000, 10_000, 10_000, 40, 7])
MOVES = st.lists(st.tuples(st.sampled_from(EXCHANGES), CUTS, CUTS), max_size=25)


class Told(Playbook):
    """A session whose effects are counted."""

    definitions = 0

    def defined(self) -> None:
        self.definitions += 1

    def play(self, side: str, chunk: bytes) -> str | None:
        """Plays a chunk; gives what ended the session."""
        try:
            self >> chunk if side == "client" else self << chunk
        except ProtocolViolationError as violation:
            return str(violation)
        return None

    @property
    def told(self) -> tuple[object, ...]:
        """Gives what a session has done and what it remembers."""
        session, pipeline = self.session, self.session.pipeline
        return (
            self.to_backend, self.to_client, self.injected, self.said, self.definitions, session.phase, session.idle, session.quiet,
            session.state.transaction_status, session.takes_terminate, session.answer_is_cut, session.waiting_bytes, session.texts(),
            session.names.remembered, session.names.settled, session.names.portals_weigh(), pipeline.due, pipeline.started,
            pipeline.entered, pipeline.cycles, pipeline.skipping,
        )  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(MOVES)
def test_messages_one_by_one_leave_the_session_as_they_do_together(
    moves: list[tuple[tuple[bytes, bytes], int, int]],
) -> None:
    """Plays the same moves to two sessions, to one of them with each chunk cut behind its first byte: nothing is taken
    at once there."""
    together, apart = Told(), Told()
    for play in (together, apart):
        prepare(play)
    for (said, answered), *sizes in moves:
        for side, data, size in (("client", said, sizes[0]), ("backend", answered, sizes[1])):
            for start in range(0, len(data), size):
                chunk = data[start : start + size]
                ended = together.play(side, chunk)
                assert (apart.play(side, chunk[:1]) or apart.play(side, chunk[1:])) == ended
                assert not whole(apart)
                assert together.told == apart.told
                if ended:
                    return
    assert [event.outcome for event in together.session.lost()] == [event.outcome for event in apart.session.lost()]


# --- walk.py and what does the same in C ------------------------------------------------------------------------------

# All chunks that are played above, and what is left of their forms when a part is missing.
CHUNKS = [chunk for exchange in EXCHANGES for chunk in exchange] + [
    PIPELINE, DESCRIBED, PARSED, PARSED_DESCRIBED, bind() + execute() + SYNC, bind(statement="n" * 62) + execute() + SYNC,
    bind(statement="n" * 63) + execute() + SYNC, bind(statement="n" * 64) + execute() + SYNC, parse("x" * 8150) + bind() + execute() + SYNC,
    BIND_COMPLETE + ROWS * 3 + complete("SELECT 6") + ready("T"), BIND_COMPLETE + NO_DATA + complete("COMMIT") + ready("E"),
    ROW_DESCRIPTION + complete() + ready(), complete("DELETE 1") + ready(), message(b"D", b"") + message(b"C", b"SEL\0") + ready(),
]  # fmt: skip
# Bytes that a length or a type is made of, and their neighbours.
BYTES = st.sampled_from([*b"PBDESQ12nTDCZIT\0", 1, 3, 4, 5, 6, 9, 12, 13, 127, 128, 255])


@pytest.mark.skipif(walk.WALKS[0] is walk.walk_client, reason="nothing was compiled")
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.sampled_from(CHUNKS),
    st.lists(st.tuples(st.integers(0, 80), BYTES), max_size=3),
    st.lists(st.tuples(st.integers(1, 20), BYTES), max_size=2),
    st.sampled_from([0, 0, 0, 1, 5, 6]),
)
def test_what_is_compiled_walks_as_what_is_not(
    chunk: bytes, changed: list[tuple[int, int]], changed_at_the_end: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(chunk[: len(chunk) - cut])
    for pos, byte in changed:
        if pos < len(data):
            data[pos] = byte
    for back, byte in changed_at_the_end:
        if back <= len(data):
            data[-back] = byte
    client, backend = walk.WALKS
    assert client(bytes(data)) == walk.walk_client(bytes(data))
    for asked in range(8):
        assert backend(bytes(data), asked) == walk.walk_backend(bytes(data), asked)


def test_a_walk_takes_bytes_alone() -> None:
    client, backend = walk.WALKS
    for wrong in ("text", None, bytearray(30)):
        if client is not walk.walk_client:
            with pytest.raises(TypeError):
                client(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                backend(wrong, 1)  # type: ignore[arg-type]
    assert client(b"") == 0 and backend(b"", 0) == 0 and backend(b"", 7) == 0
