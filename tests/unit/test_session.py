"""Checks the session, as transcripts of the wire: who says what, what goes on, what waits, what the log hears."""

from __future__ import annotations

import uuid
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.detect.string_literals import STANDARD
from secretproxy.session.session import Limits, Step
from secretproxy.session.states import Phase
from secretproxy.wire.errors import ProtocolViolationError
from tests.unit.playbook import (
    AUTHENTICATION_OK,
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_IN,
    EMPTY,
    FLUSH,
    FUNCTION_CALL,
    GETTER,
    KEY_DATA,
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
    sign,
    testified,
)

SECRET = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
SECRET_PARAMETERS = "SELECT encrypted_secrets.secrets_getter($1, $2)"
HARMLESS = "SELECT 1"


@pytest.fixture
def play() -> Playbook:
    return Playbook().logged_in()


# --- login and greeting --------------------------------------------------------------------------------------------


def test_the_first_ready_waits_for_the_token() -> None:
    play = Playbook()
    play >> message(b"p", b"md5\0")
    play << AUTHENTICATION_OK + parameter("server_version", "17") + KEY_DATA + ready()
    assert play.to_client == AUTHENTICATION_OK + parameter("server_version", "17") + KEY_DATA
    assert b"backend_start" in play.injected
    play.take()
    play << ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready()
    assert play.to_client == b""
    token = play.session.token
    assert token is not None and token.encode() in play.injected and play.injected[:1] == b"F"
    play.take()
    play << message(b"V", b"\xff\xff\xff\xff") + ready()
    assert play.to_client == ready()
    assert play.session.phase is Phase.READY


def test_where_the_start_is_hidden_the_owner_is_asked() -> None:
    play = Playbook()
    play << AUTHENTICATION_OK + KEY_DATA + ready()
    play.take()
    play << ROW_DESCRIPTION + message(b"D", b"\0\1\xff\xff\xff\xff") + complete() + ready()
    assert b"secretproxy.backend_start()" in play.injected
    play.take()
    play << error("3F000") + ready()
    assert play.to_client == ready() and play.injected == b""


def test_physical_replication_is_not_asked_anything() -> None:
    play = Playbook(replication="true")
    play << AUTHENTICATION_OK + KEY_DATA + ready()
    assert play.injected == b"" and play.to_client.endswith(ready())


def test_a_client_that_does_not_wait_is_read_when_the_backend_is_ready() -> None:
    play = Playbook()
    play >> query(HARMLESS)
    assert play.to_backend == b""
    play.logged_in()
    play >> query("SELECT 2")
    assert play.take()[0] == query("SELECT 2")


def test_early_statements_keep_their_order() -> None:
    play = Playbook()
    play >> query("SELECT 1") >> query("SELECT 2")
    play << AUTHENTICATION_OK + KEY_DATA + ready()
    play << ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready()
    play << message(b"V", b"\xff\xff\xff\xff") + ready()
    assert play.to_backend == query("SELECT 1") + query("SELECT 2")


def test_errors_and_notices_of_the_login_go_on() -> None:
    play = Playbook()
    play << notice("hello") + error("28P01", "FATAL")
    assert play.to_client == notice("hello") + error("28P01", "FATAL")


def test_what_is_no_postgres_is_told_by_its_first_message() -> None:
    with pytest.raises(ProtocolViolationError):
        Playbook() << b"HTTP/1.1 400 Bad Request\r\n\r\n"


# --- simple protocol -----------------------------------------------------------------------------------------------


def test_a_harmless_query_passes_in_its_chunk(play: Playbook) -> None:
    chunk = query(HARMLESS)
    assert play.session.from_client(chunk) is chunk
    answer = ROW_DESCRIPTION + row("1") + complete() + ready()
    assert play.session.from_backend(answer) is answer


def test_an_attempt_is_committed_before_its_query_goes_on(play: Playbook) -> None:
    play >> query(HARMLESS) + query(SECRET) + query(HARMLESS)
    assert play.held == query(SECRET) + query(HARMLESS)
    assert [(event.event, event.function, event.owner_id, event.secret_names) for event in play.committed] == [
        ("attempt", GETTER, OWNER, ("key",))
    ]
    assert play.to_backend == query(HARMLESS) + query(SECRET) + query(HARMLESS)


@pytest.mark.parametrize("said", [testified(), quoted()])
def test_covered_testimony_leaves_the_stream_and_nothing_waits(play: Playbook, said: bytes) -> None:
    play >> query(SECRET)
    play.take()
    play << ROW_DESCRIPTION + said + row("value") + complete() + ready()
    assert play.to_client == ROW_DESCRIPTION + row("value") + complete() + ready()
    assert play.held == b"" and play.committed == []
    assert play.said == [("outcome", 1, None, "ok", None, 1)]


def test_uncovered_testimony_holds_everything_behind_it(play: Playbook) -> None:
    play >> query("SELECT * FROM some_view")
    play.take()
    play << ROW_DESCRIPTION + testified("hidden") + row("value") + complete() + ready()
    assert play.held == row("value") + complete() + ready()
    assert play.to_client == ROW_DESCRIPTION + play.held
    assert play.said == [("call", 1, ("hidden",), None, None, None), ("outcome", 1, None, "ok", None, 1)]
    assert play.committed[0].fingerprint is not None


def test_another_name_than_the_attempts_is_a_call(play: Playbook) -> None:
    play >> query(SECRET)
    play << testified("other")
    assert [event.event for event in play.committed] == ["attempt", "call"]


def test_several_statements_in_one_query(play: Playbook) -> None:
    play >> query(f"{SECRET}; SELECT 1; {SECRET.replace('key', 'two')}")
    assert [event.secret_names for event in play.committed] == [("key",), ("two",)]
    play << testified() + complete() + complete() + testified("two", clock=START + 2) + complete()
    assert play.recorded == []
    play << ready()
    # One outcome for what both did: each ran once.
    assert [(event.outcome, event.calls, event.function) for event in play.recorded] == [("ok", 1, None)]


def test_an_error_and_a_cancel_are_outcomes(play: Playbook) -> None:
    play >> query(SECRET)
    play << error("22012") + ready()
    play >> query(SECRET)
    play << error("57014") + ready()
    assert [(event.outcome, event.sqlstate) for event in play.recorded] == [("error", "22012"), ("cancelled", "57014")]


def test_what_was_under_way_is_lost(play: Playbook) -> None:
    play >> query(SECRET) + query(SECRET)
    play << testified() + complete() + ready()
    play.take()
    assert [(event.statement_no, event.outcome) for event in play.session.lost()] == [(2, "lost")]
    assert play.session.lost() == []


def test_a_long_statement_is_parsed_elsewhere() -> None:
    play = Playbook(limits=Limits(parse_thread_bytes=100)).logged_in()
    long = f"{SECRET} /* {'x' * 200} */"
    out = play.session.from_client(query(long) + query(HARMLESS))
    assert not isinstance(out, bytes) and out.parse == (long.encode(), "utf-8", STANDARD)
    play.interpreter.carry_out_client(out)
    assert play.to_backend == query(long) + query(HARMLESS)
    assert [event.secret_names for event in play.committed] == [("key",)]


def test_a_statement_too_long_to_parse_goes_on_under_testimony() -> None:
    play = Playbook(limits=Limits(max_statement_memory=70_000)).logged_in()
    long = f"{SECRET} /* {'x' * 100_000} */"
    for pos in range(0, len(query(long)), 10_000):
        play >> query(long)[pos : pos + 10_000]
    assert play.to_backend == query(long) and play.committed == []
    play << testified() + row("v") + complete() + ready()
    assert [event.event for event in play.committed] == ["call"] and play.held


# --- extended protocol ---------------------------------------------------------------------------------------------


def test_text_parameters(play: Playbook) -> None:
    chunk = parse(SECRET_PARAMETERS) + bind([str(OWNER).encode(), b"key"]) + execute() + SYNC
    play >> chunk
    assert play.to_backend == chunk
    assert [(event.owner_id, event.secret_names) for event in play.committed] == [(OWNER, ("key",))]
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + complete() + ready()
    assert play.recorded[0].calls == 1 and play.recorded[0].outcome == "ok" and play.held.startswith(execute())


def test_binary_parameters_by_described_types(play: Playbook) -> None:
    sql = "SELECT encrypted_secrets.secrets_delete($1, $2)"
    play >> parse(sql, "s") + describe("S", "s") + FLUSH
    play << PARSE_COMPLETE + message(b"t", b"\0\2\0\0\x0b\x86\0\0\3\xf1") + NO_DATA
    array = b"\0\0\0\1\0\0\0\0\0\0\0\x19\0\0\0\2\0\0\0\1\0\0\0\1a\0\0\0\1b"
    play >> bind([OWNER.bytes, array], statement="s", formats=[1]) + execute() + SYNC
    assert [(event.function, event.owner_id, event.secret_names) for event in play.committed] == [
        ("encrypted_secrets.secrets_delete(uuid,text[])", OWNER, ("a", "b"))
    ]


def test_one_attempt_for_each_execution(play: Playbook) -> None:
    play >> parse(SECRET_PARAMETERS, "s") + SYNC
    assert play.committed == []
    for name in (b"one", b"two"):
        play >> bind([str(OWNER).encode(), name], statement="s") + execute() + SYNC
    assert [(event.statement_no, event.secret_names) for event in play.committed] == [(1, ("one",)), (2, ("two",))]


def test_a_suspended_portal_is_one_execution(play: Playbook) -> None:
    play >> parse(SECRET) + bind() + execute(rows=1) + FLUSH
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + SUSPENDED
    assert play.recorded == []
    play >> execute(rows=1) + SYNC
    play << testified(clock=START + 2) + row("v") + complete() + ready()
    assert [event.event for event in play.committed] == ["attempt"]
    assert [(event.outcome, event.calls) for event in play.recorded] == [("ok", 2)]


@pytest.mark.parametrize("ending", [SYNC, close("P", "") + SYNC, bind() + SYNC])
def test_a_portal_left_suspended_ends_with_its_transaction(play: Playbook, ending: bytes) -> None:
    play >> parse(SECRET) + bind() + execute(rows=1) + FLUSH
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + SUSPENDED
    play >> ending
    play << ready()
    assert [(event.outcome, event.calls) for event in play.recorded] == [("ok", 1)]


def test_a_suspended_portal_that_only_testimony_showed(play: Playbook) -> None:
    play >> parse("SELECT * FROM v") + bind() + execute(rows=1) + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + SUSPENDED + ready()
    assert [event.event for event in play.committed] == ["call"]
    assert [(event.outcome, event.calls) for event in play.recorded] == [("ok", 1)]


def test_an_error_in_a_pipeline_ends_what_stands_behind_it(play: Playbook) -> None:
    first = parse(SECRET) + bind() + execute()
    play >> first + parse("broken") + bind() + execute() + parse(SECRET) + bind() + execute() + SYNC + query(SECRET)
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + complete() + error("42601") + ready()
    play << testified(clock=START + 2) + complete() + ready()
    assert [(e.statement_no, e.outcome, e.sqlstate, e.calls) for e in play.recorded] == [
        (1, "ok", None, 1), (3, "error", "42601", 0), (4, "ok", None, 1),
    ]  # fmt: skip


def test_after_an_error_nothing_counts_until_sync(play: Playbook) -> None:
    play >> parse("broken") + FLUSH
    play << error("42601")
    play >> bind() + execute() + query("SELECT 9") + SYNC + query(SECRET)
    play << ready() + testified() + complete() + ready()
    assert [(event.event, event.calls) for event in [*play.committed, *play.recorded]] == [
        ("attempt", None),
        ("outcome", 1),
    ]


def test_a_parse_that_fails_leaves_the_statement_of_that_name(play: Playbook) -> None:
    play >> parse(SECRET, "s") + SYNC
    play << PARSE_COMPLETE + ready()
    play >> parse(HARMLESS, "s") + SYNC
    play << error("42P05") + ready()
    play >> bind(statement="s") + execute() + SYNC
    assert [event.event for event in play.committed] == ["attempt"]


def test_a_closed_statement_is_forgotten(play: Playbook) -> None:
    play >> parse(SECRET, "s") + close("S", "s") + parse(HARMLESS, "s") + bind(statement="s") + execute() + SYNC
    play << PARSE_COMPLETE + CLOSE_COMPLETE + PARSE_COMPLETE + BIND_COMPLETE + complete() + ready()
    assert play.said == []


def test_function_call(play: Playbook) -> None:
    play >> FUNCTION_CALL + query(HARMLESS)
    play << testified() + message(b"V", b"\xff\xff\xff\xff") + ready() + complete() + ready()
    assert [(e.event, e.protocol, e.statement_no) for e in play.committed] == [("call", "fastpath", 1)]
    assert [(e.outcome, e.protocol) for e in play.recorded] == [("ok", "fastpath")]


# --- SQL's own prepared statements and cursors ---------------------------------------------------------------------


def test_sql_prepare_and_execute(play: Playbook) -> None:
    play >> query("PREPARE p (uuid, text) AS SELECT encrypted_secrets.secrets_getter($1, $2)")
    play >> query(f"EXECUTE p ('{OWNER}', 'key')")
    assert [(event.owner_id, event.secret_names) for event in play.committed] == [(None, None), (OWNER, ("key",))]


def test_sql_execute_of_a_statement_of_the_protocol(play: Playbook) -> None:
    play >> parse(SECRET_PARAMETERS, "mine") + SYNC + query(f"EXECUTE mine('{OWNER}', 'key')")
    assert [(event.owner_id, event.secret_names) for event in play.committed] == [(OWNER, ("key",))]


def test_cursor(play: Playbook) -> None:
    play >> query(f"DECLARE c CURSOR FOR {SECRET}") + query("FETCH 2 FROM c") + query("FETCH ALL FROM other")
    assert [(event.statement_no, event.secret_names) for event in play.committed] == [(1, ("key",)), (2, ("key",))]


# --- COPY ----------------------------------------------------------------------------------------------------------


def test_copy_in_of_the_simple_protocol(play: Playbook) -> None:
    play >> query("COPY t FROM STDIN")
    play << COPY_IN
    play >> COPY_DATA + COPY_DATA + COPY_DONE
    play << complete("COPY 2") + ready()
    play >> query(SECRET)
    play << testified() + complete() + ready()
    assert play.said == [("attempt", 2, ("key",), None, None, None), ("outcome", 2, None, "ok", None, 1)]


@pytest.mark.parametrize("pipelined", [True, False])
def test_during_copy_in_the_backend_overlooks_sync(play: Playbook, pipelined: bool) -> None:
    begin = parse("COPY t FROM STDIN") + bind() + execute() + SYNC
    data = COPY_DATA + COPY_DONE + SYNC
    if pipelined:
        play >> begin + data
    else:
        play >> begin
    play << PARSE_COMPLETE + BIND_COMPLETE + COPY_IN
    if not pipelined:
        play >> data
    play << complete("COPY 1") + ready()
    play >> query(SECRET)
    play << testified() + complete() + ready()
    assert [(event.event, event.calls) for event in [*play.committed, *play.recorded]] == [
        ("attempt", None),
        ("outcome", 1),
    ]


def test_testimony_of_a_trigger_under_copy_in(play: Playbook) -> None:
    play >> query("COPY t FROM STDIN")
    play << COPY_IN
    play >> COPY_DATA
    play << testified("by trigger")
    play >> COPY_DONE
    play << complete("COPY 1") + ready()
    assert play.said == [("call", 1, ("by trigger",), None, None, None), ("outcome", 1, None, "ok", None, 1)]


# --- refusal -------------------------------------------------------------------------------------------------------


def refused(sent: bytes) -> bytes:
    """Gives the SQLSTATE of the one error in what the client got."""
    return sent[sent.index(b"\0C") + 2 : sent.index(b"\0C") + 7]


def test_a_refused_query_becomes_one_that_fails_in_the_backend(play: Playbook) -> None:
    play.refusing = True
    play >> query(HARMLESS) + query(SECRET)
    assert query(SECRET) not in play.to_backend and b"secrets_getter" not in play.to_backend
    assert [(event.event, event.outcome) for event in play.refusals] == [("refusal", "refused")]
    play.take()
    play << complete() + ready() + error("26000") + ready()
    assert refused(play.to_client) == b"58030" and play.to_client.endswith(ready())
    assert [(event.outcome, event.sqlstate) for event in play.recorded] == [("refused", "58030")]


def test_refused_in_an_aborted_transaction(play: Playbook) -> None:
    play >> query("BEGIN; SELECT 1/0")
    play << complete("BEGIN") + error("22012") + ready("E")
    play.refusing = True
    play.take()
    play >> query(SECRET)
    play << error("25P02") + ready("E")
    assert refused(play.to_client) == b"25P02"
    play.take()
    play >> parse(SECRET) + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + error("34000") + ready("E")
    assert refused(play.to_client) == b"25P02"


def test_refused_in_a_pipeline(play: Playbook) -> None:
    play.refusing = True
    before = parse(HARMLESS) + bind() + execute()
    behind = parse(HARMLESS) + bind() + execute() + SYNC
    play >> before + parse(SECRET) + bind() + execute() + behind
    assert play.to_backend.startswith(before + parse(SECRET) + bind()) and play.to_backend.endswith(behind)
    play.take()
    play << (PARSE_COMPLETE + BIND_COMPLETE) + complete() + (PARSE_COMPLETE + BIND_COMPLETE) + error("34000") + ready()
    assert refused(play.to_client) == b"58030"
    assert [(event.statement_no, event.outcome) for event in play.recorded] == [(2, "refused")]
    assert play.session.idle


# --- testimony -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        testified(key=bytes(32)),
        testified(pid=1),
        testified(start=START + 1),
        notice("SPX1 nonsense", "SPX01", "INFO"),
        notice(sign("SPX1 1 x"), "SPX01", "INFO"),
        notice("", "SPX01", "INFO"),
        quoted(key=bytes(32)),
        quoted(pid=1),
        quoted(start=START + 1),
        quoted(owner="x"),
        quoted(texts="NULL 'app' 'none'"),
        quoted(texts="'a' 'b' 'c' 'd'"),
        quoted(texts="'a'"),
        quoted(texts="'a'b' 'app' 'none'"),
        notice(b"SPX2 1".hex(), "SPX01", "INFO"),
        notice(b"SPX2 ".hex() + "zz", "SPX01", "INFO"),
        notice(b"SPX2 ".hex() + "5", "SPX01", "INFO"),
    ],
)
def test_forgeries_are_dropped_and_recorded(play: Playbook, forged: bytes) -> None:
    play >> query("DO 'forge'")
    play << forged + complete("DO") + ready()
    assert play.to_client == complete("DO") + ready()
    (event,) = play.committed
    assert event.event == "forgery" and event.calls == 1
    # What was signed once and is played again keeps what it says.
    signed = forged in (testified(pid=1), testified(start=START + 1), quoted(pid=1), quoted(start=START + 1))
    assert (event.function, event.secret_names) == ((GETTER, ("key",)) if signed else (None, None))


def test_a_flood_of_forgeries_is_an_event_a_chunk(play: Playbook) -> None:
    play >> query("DO 'flood'")
    chunk = notice("SPX1 1 nonsense", "SPX01", "INFO") * 500 + testified("hidden") + testified("hidden") * 200
    play << chunk + notice("", "SPX01", "INFO") * 300
    assert [(event.event, event.secret_names, event.calls) for event in play.committed] == [
        ("forgery", None, 800), ("call", ("hidden",), None), ("forgery", ("hidden",), 200),
    ]  # fmt: skip
    assert play.to_client == b"" and play.session.matching.forgeries == 2


def test_a_forgery_longer_than_a_statement_may_be_is_dropped_without_being_kept() -> None:
    play = Playbook(limits=Limits(max_statement_memory=70_000)).logged_in()
    play >> query("DO ''")
    large = notice("x" * 300_000, "SPX01", "INFO")
    stream = (
        row("before") + large + row("behind") + testified("hidden") + row("value") + large + complete("DO") + ready()
    )
    for size in (1_000, 4_096, 65_536, len(stream)):
        play >> query("DO ''")
        play.take()
        for pos in range(0, len(stream), size):
            play << stream[pos : pos + size]
            assert len(play.session._backend.framer._rest) < 4_096
        play.session.matching._last_clock = 0
        assert play.to_client == row("before") + row("behind") + row("value") + complete("DO") + ready()
        assert [event.event for event in play.committed if event.event == "call"] == ["call"]
        assert sum(event.calls or 0 for event in play.committed if event.event == "forgery") == 2


def test_a_refused_statement_is_covered_by_nothing_and_its_stand_in_cannot_be_foreseen(play: Playbook) -> None:
    """A client that made a statement of the stand-in's name would have it run, with its call taken for one of the
    log."""
    play.refusing = True
    names = set()
    for _ in range(2):
        play >> query(SECRET)
        names.add(play.to_backend)
        assert len(play.to_backend.split(b'"')[1]) < 64, "the backend would cut it off, and say so"
        play.take()
        play << testified("key", clock=START + 10 + len(names)) + row("value")
        assert [event.event for event in play.committed] == ["call"] and play.held == row("value")
        play << error("26000") + ready()
        play.take()
    assert len(names) == 2


def test_testimony_of_the_login_is_recorded_and_not_shown() -> None:
    """A login event trigger runs before the first ReadyForQuery, when the session has no token yet."""
    play = Playbook()
    play << AUTHENTICATION_OK + parameter("client_encoding", "UTF8") + KEY_DATA + testified("at-login") + ready()
    assert play.to_client == AUTHENTICATION_OK + parameter("client_encoding", "UTF8") + KEY_DATA
    assert [(event.event, event.secret_names) for event in play.committed] == [("call", ("at-login",))]
    (
        play
        << ROW_DESCRIPTION
        + row(str(PID), str(START), "", "1")
        + complete()
        + ready()
        + message(b"V", b"\xff\xff\xff\xff")
        + ready()
    )
    assert play.to_client.endswith(ready())
    play >> query(HARMLESS)
    play << complete() + ready()
    assert [(event.event, event.calls) for event in play.recorded] == [("outcome", 1)]


def test_testimony_between_statements_is_recorded_and_holds_what_follows(play: Playbook) -> None:
    play << testified("between") + notice("said to everybody")
    assert play.held == notice("said to everybody")
    assert [(event.event, event.secret_names) for event in play.committed] == [("call", ("between",))]
    play >> query(HARMLESS)
    play << complete() + ready()
    assert [(event.outcome, event.calls) for event in play.recorded] == [("ok", 1)]


def test_what_a_gone_client_left_behind_is_lost_or_failed_but_never_well(play: Playbook) -> None:
    play >> query(SECRET) + query(SECRET)
    play.session.client_gone = True
    assert not play.session.quiet
    play << testified() + complete() + ready() + error("57014") + ready()
    assert [(event.outcome, event.sqlstate) for event in play.recorded] == [("lost", None), ("cancelled", "57014")]
    assert play.session.quiet


def test_a_testimony_is_good_once(play: Playbook) -> None:
    play >> query(SECRET)
    play << testified() + testified()
    assert [event.event for event in play.committed] == ["attempt", "forgery"]


def test_after_the_backends_clock_was_set_back_a_true_testimony_is_a_forgery(play: Playbook) -> None:
    """Until it has passed the time of the last one that was believed: a replay looks the same."""
    play >> query("DO ''")
    play << testified("before", clock=START + 1000) + complete() + ready()
    play.take()
    for clock, event in ((START + 1, "forgery"), (START + 1000, "forgery"), (START + 1001, "call")):
        play >> query("DO ''")
        play << testified("after", clock=clock)
        assert [told.event for told in play.committed] == [event]
        assert play.committed[0].secret_names == ("after",)
        play << complete() + ready()
        play.take()


def test_an_encoding_counts_for_texts_that_come_after_the_backend_reported_it(play: Playbook) -> None:
    """A text that comes before that is read in the old one, and its name is another: the call is then a row of its
    own."""
    secret = message(b"Q", f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'caf\u00e9')".encode() + b"\0")
    meant = "caf\u00c3\u00a9"  # the same bytes in LATIN1
    play >> query("SET client_encoding = 'LATIN1'") + secret
    assert [event.secret_names for event in play.committed] == [("caf\u00e9",)]
    play << parameter("client_encoding", "LATIN1") + complete("SET") + ready() + testified(meant)
    assert [(event.event, event.secret_names) for event in play.committed[1:]] == [("call", (meant,))]
    play << complete() + ready()
    play.take()
    play >> secret
    assert [event.secret_names for event in play.committed] == [(meant,)]


def test_other_notices_pass(play: Playbook) -> None:
    play >> query("DO ''")
    said = notice("SPX01") + notice("C" + "SPX01") + notice("x" * 200_000) + notice("SPX1", "01000", "WARNING")
    play << said
    assert play.to_client == said and play.said == []


def test_a_large_forgery_does_not_pass(play: Playbook) -> None:
    play >> query("DO ''")
    large = notice("x" * 200_000, "SPX01", "INFO")
    for pos in range(0, len(large), 5000):
        play << large[pos : pos + 5000]
    assert play.to_client == b"" and [event.event for event in play.committed] == ["forgery"]


def test_thousands_of_calls_in_one_chunk_are_one_wait(play: Playbook) -> None:
    play >> query("SELECT f(n) FROM many")
    chunk = b"".join(testified(f"n{n}", clock=START + 1 + n) + row("v") for n in range(5000))
    out = play.session.from_backend(chunk)
    assert not isinstance(out, bytes) and len(out.commit) == 5000
    assert b"".join(part.data for part in out.held) == row("v") * 5000


def test_testimony_at_every_cut(play: Playbook) -> None:
    stream = ROW_DESCRIPTION + testified("hidden") + row("value") + complete() + ready()
    for cut in range(1, len(stream)):
        play = Playbook().logged_in()
        play >> query("SELECT * FROM v")
        play << stream[:cut]
        play << stream[cut:]
        assert play.to_client == ROW_DESCRIPTION + row("value") + complete() + ready()
        assert [event.secret_names for event in play.committed] == [("hidden",)]
        assert [event.calls for event in play.recorded] == [1]


def test_testimony_at_commit_counts_with_the_statement_before(play: Playbook) -> None:
    play >> parse("INSERT INTO t VALUES (1)") + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + complete("INSERT 0 1") + testified("deferred") + ready()
    assert play.said == [("call", 1, ("deferred",), None, None, None), ("outcome", 1, None, "ok", None, 1)]


def test_who_the_jwt_says(play: Playbook) -> None:
    user = uuid.uuid4()
    play >> query(SECRET)
    play << testified(jwt=user) + complete() + ready()
    assert play.recorded[0].accessed_by == user


# --- the token -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["RESET", "DISCARD ALL"])
def test_the_token_is_renewed(play: Playbook, tag: str) -> None:
    play >> query(tag)
    play << complete(tag) + ready()
    assert play.injected[:1] == b"F" and b"secretproxy.session" in play.injected
    assert play.to_client == complete(tag) + ready()
    play.take()
    play >> query(SECRET)
    play << message(b"V", b"\xff\xff\xff\xff") + ready() + testified() + complete() + ready()
    assert play.to_client == complete() + ready()


LONG_ERROR = message(b"E", b"SERROR\0VERROR\0C57014\0M" + b"x" * 70_000 + b"\0\0")


@pytest.mark.parametrize(
    "answer", [message(b"V", b"\xff\xff\xff\xff"), error("57014"), LONG_ERROR], ids=["void", "error", "a long error"]
)
def test_the_answer_to_it_is_not_the_clients_wherever_it_is_cut(answer: bytes) -> None:
    own = answer + ready()
    for cut in [*range(1, min(len(own), 2000)), 65_540, 69_999, len(own) - 7, len(own) - 1]:
        play = Playbook().logged_in()
        play >> query("RESET ALL")
        play << complete("RESET") + ready()
        play.take()
        play >> query(HARMLESS)
        play << own[:cut]
        play << own[cut : cut + 3]
        play << own[cut + 3 :] + complete() + ready()
        assert play.to_client == complete() + ready(), cut


def test_never_in_the_middle_of_a_pipeline_or_an_aborted_transaction(play: Playbook) -> None:
    play >> query("RESET ALL") + query(HARMLESS)
    play << complete("RESET") + ready()
    assert play.injected == b""
    play << complete() + ready("E")
    assert play.injected == b""
    play >> query("ROLLBACK")
    play << complete("ROLLBACK") + ready()
    assert play.injected[:1] == b"F"


def test_in_a_transaction_nothing_takes_a_snapshot(play: Playbook) -> None:
    """The token's statement stands aside: no FunctionCall, no unnamed statement, and the client hears nothing of it."""
    play >> query("BEGIN") + query("RESET ALL")
    play << complete("BEGIN") + ready("T")
    play << complete("RESET") + ready("T")
    assert play.injected[:1] == b"P" and b"SET secretproxy.session TO" in play.injected
    play.take()
    play << PARSE_COMPLETE + BIND_COMPLETE + complete("SET") + CLOSE_COMPLETE + CLOSE_COMPLETE + ready("T")
    assert play.to_client == b""
    play >> query(HARMLESS)
    play << complete() + ready("T")
    assert play.to_client == complete() + ready("T")


# --- the client's misdeeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes([kind]) for kind in range(256) if bytes([kind]) not in b"QPBDECSHFdcfX"])
def test_messages_that_are_not_the_clients(play: Playbook, kind: bytes) -> None:
    """The backend refuses it, after it has answered what came before; what comes behind would not be read."""
    before = query(HARMLESS) + message(kind)
    play >> before + query(HARMLESS) >> query(HARMLESS)
    assert play.to_backend == before
    answer = ROW_DESCRIPTION + row("1") + complete() + ready() + error("08P01", "FATAL")
    play << answer
    assert play.to_client == answer


@pytest.mark.parametrize("length", [0, 3, 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_that_cannot_be(length: int) -> None:
    """The backend hangs up at it."""
    play = Playbook(limits=Limits(max_message=0x3FFFFFFE)).logged_in()
    head = b"Q" + length.to_bytes(4, "big")
    play >> query(HARMLESS) + head + b"abc" >> b"abc"
    assert play.to_backend == query(HARMLESS) + head


def test_what_cannot_be_behind_an_attempt_waits_with_it(play: Playbook) -> None:
    play >> query(SECRET) + message(b"!") + query(SECRET)
    assert play.held == query(SECRET) + message(b"!")
    assert len(play.committed) == 1


def test_a_query_instead_of_a_password() -> None:
    play = Playbook()
    play >> query(HARMLESS)
    assert play.to_backend == b""
    asked = message(b"R", b"\0\0\0\3")
    play << asked
    assert (play.to_client, play.injected) == (asked, query(HARMLESS))
    play >> query(HARMLESS)
    assert play.to_backend == b""


def test_terminated_by_the_backend_during_the_greeting() -> None:
    """The client has been let in as far as the backend is concerned."""
    play = Playbook()
    play << AUTHENTICATION_OK + KEY_DATA + ready()
    play << error("57P01", "FATAL")
    assert play.to_client == AUTHENTICATION_OK + KEY_DATA + ready() + error("57P01", "FATAL")


def test_after_terminate(play: Playbook) -> None:
    play >> query(HARMLESS) + TERMINATE + b"x" >> b"x"
    assert play.to_backend == query(HARMLESS) + TERMINATE


def test_messages_without_a_body(play: Playbook) -> None:
    """Compiled code takes no slice that ends before it begins."""
    play >> message(b"Q") + query(HARMLESS)
    play << error("08P01") + ready() + complete() + message(b"C") + ready()
    assert play.to_backend == message(b"Q") + query(HARMLESS)
    assert play.session.idle


def test_an_empty_query_and_an_empty_statement(play: Playbook) -> None:
    play >> query("") + parse("") + bind() + execute() + SYNC
    play << EMPTY + ready() + PARSE_COMPLETE + BIND_COMPLETE + EMPTY + ready()
    assert play.session.idle and play.said == []


# --- chunks --------------------------------------------------------------------------------------------------------

CLIENT = (
    query(HARMLESS) + query(SECRET) + parse(SECRET_PARAMETERS, "s") + bind([str(OWNER).encode(), b"key"], statement="s")
    + execute() + SYNC + query("COPY t FROM STDIN") + COPY_DATA + COPY_DONE + FUNCTION_CALL + query("SELECT * FROM v")
)  # fmt: skip
BACKEND = (
    complete() + ready() + testified() + row("v" * 50) + complete() + ready() + PARSE_COMPLETE + BIND_COMPLETE
    + testified(clock=START + 2) + complete() + ready() + COPY_IN + complete("COPY 1") + ready()
    + message(b"V", b"\xff\xff\xff\xff") + ready() + testified("hidden", clock=START + 3) + row("x") + complete() + ready()
)  # fmt: skip


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % len(stream) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(places)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=40), st.lists(st.integers(0, 10_000), max_size=40))
def test_however_it_is_cut_the_decisions_are_the_same(client_cuts: list[int], backend_cuts: list[int]) -> None:
    play = Playbook().logged_in()
    for chunk in pieces(CLIENT, client_cuts):
        play >> chunk
    for chunk in pieces(BACKEND, backend_cuts):
        play << chunk
    assert play.to_backend == CLIENT
    visible = BACKEND
    for told in (testified(), testified(clock=START + 2), testified("hidden", clock=START + 3)):
        visible = visible.replace(told, b"")
    assert play.to_client == visible
    assert [(event.event, event.statement_no, event.secret_names) for event in play.committed] == [
        ("attempt", 2, ("key",)), ("attempt", 3, ("key",)), ("call", 6, ("hidden",)),
    ]  # fmt: skip
    assert [(event.statement_no, event.outcome, event.calls) for event in play.recorded] == [
        (2, "ok", 1), (3, "ok", 1), (6, "ok", 1),
    ]  # fmt: skip
    assert play.session.idle


def test_a_client_with_very_many_messages_is_looked_at_in_turns() -> None:
    play = Playbook().logged_in()
    chunk = query("SELECT 1") * 2000
    out = play.session.from_client(chunk)
    assert isinstance(out, Step) and out.again
    assert 0 < len(out.forward) < len(chunk) / 2
    parts = [out.forward]
    while isinstance(out, Step) and out.again:
        out = play.session.from_client(b"")
        parts.append(out if isinstance(out, bytes) else out.forward)
    assert b"".join(parts) == chunk
    assert len(parts) > 3


def test_the_end_of_a_chunk_is_no_reason_to_come_again() -> None:
    play = Playbook().logged_in()
    assert play.session.from_client(query("SELECT 1") * 256) == query("SELECT 1") * 256
