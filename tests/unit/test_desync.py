"""Plays transcripts in which the session's idea of what the backend is at could part from the backend's: errors in the
middle, names that are undone, portals that outlive their Bind, COPY and Sync, answers nobody asked for. An attempt must
be made in each, and ended once."""

from __future__ import annotations

import pytest

from secretproxy.session.session import Limits, Step
from secretproxy.wire.errors import ProtocolViolationError
from tests.unit.playbook import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_IN,
    FLUSH,
    FUNCTION_CALL,
    KEY_DATA,
    NO_DATA,
    OWNER,
    PARSE_COMPLETE,
    PID,
    ROW_DESCRIPTION,
    START,
    SUSPENDED,
    SYNC,
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
    ready,
    row,
    testified,
)

SECRET = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
NAMED = "SELECT encrypted_secrets.secrets_getter($1, $2)"
HARMLESS = "SELECT 1"
VOID = message(b"V", b"\xff\xff\xff\xff")
NOTIFICATION = message(b"A", b"\0\0\0\1channel\0payload\0")
COPY_FAIL = message(b"f", b"no\0")


@pytest.fixture
def play() -> Playbook:
    return Playbook().logged_in()


def prepared(play: Playbook, name: str = "s") -> Playbook:
    """Gives a session with a prepared statement that calls a secret function."""
    play >> parse(SECRET, name) + SYNC
    play << PARSE_COMPLETE + ready()
    play.take()
    return play


def attempts(play: Playbook) -> list[object]:
    return [event.secret_names for event in play.committed if event.event == "attempt"]


def still_in_step(play: Playbook) -> None:
    """Checks that the next secret statement is attempted, covered and ended once, and nothing is left over."""
    play.take()
    play >> query(SECRET)
    play << testified(clock=START + 1_000_000) + complete() + ready()
    assert [(e.event, e.outcome, e.calls) for e in [*play.committed, *play.recorded]] == [
        ("attempt", None, None), ("outcome", "ok", 1),
    ]  # fmt: skip
    assert play.session.idle


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_count_as_far_as_postgres_reads_them(play: Playbook) -> None:
    long = "n" * 63
    (
        play
        >> parse(SECRET, long + "one")
        + bind(statement=long + "two", portal=long + "three")
        + execute(long + "four")
        + SYNC
    )
    assert attempts(play) == [("key",)]


def test_names_longer_than_the_beginning_of_a_message(play: Playbook) -> None:
    long = "n" * 70_000
    play >> parse(SECRET, long) + bind(statement=long, portal=long)
    play >> execute(long) + SYNC
    assert attempts(play) == [("key",)]


def test_a_skipped_parse_leaves_the_unnamed_statement(play: Playbook) -> None:
    play >> parse(SECRET) + SYNC
    play << PARSE_COMPLETE + ready()
    play >> bind(statement="missing") + parse(HARMLESS) + SYNC
    play << error("26000") + ready()
    play >> bind() + execute() + SYNC
    assert attempts(play) == [("key",)]


@pytest.mark.parametrize("skipped", [parse(HARMLESS, "s"), close("S", "s")])
def test_a_later_pipeline_may_find_that_an_earlier_one_was_skipped(play: Playbook, skipped: bytes) -> None:
    """All of it is sent before the error is known."""
    prepared(play) >> bind(statement="missing") + skipped + SYNC + bind(statement="s") + execute() + SYNC
    assert attempts(play) == [("key",)]
    play << error("26000") + ready() + BIND_COMPLETE + testified() + complete() + ready()
    assert [event.event for event in play.committed] == ["attempt"]
    still_in_step(play)


def test_what_was_skipped_is_not_what_a_later_failure_goes_back_to(play: Playbook) -> None:
    (
        prepared(play)
        >> bind(statement="missing") + parse(HARMLESS, "s") + SYNC + parse(SECRET.replace("key", "new"), "s") + SYNC
    )
    play << error("26000") + ready() + error("42P05") + ready()
    play >> bind(statement="s") + execute() + SYNC
    assert attempts(play) == [("key",)]


def test_a_query_in_between_may_be_skipped_as_well(play: Playbook) -> None:
    (
        prepared(play)
        >> parse("broken") + query(HARMLESS) + close("S", "s") + SYNC + bind(statement="s") + execute() + SYNC
    )
    assert attempts(play) == [("key",)]


def test_what_cannot_be_skipped_leaves_no_doubt(play: Playbook) -> None:
    (
        play
        >> parse(SECRET)
        + bind()
        + execute()
        + SYNC
        + parse(HARMLESS)
        + bind()
        + execute()
        + SYNC
        + bind()
        + execute()
        + SYNC
    )
    assert attempts(play) == [("key",)]


def test_a_parse_after_the_error_was_seen_changes_nothing(play: Playbook) -> None:
    prepared(play) >> bind(statement="missing") + FLUSH
    play << error("26000")
    play >> close("S", "s") + parse(HARMLESS, "s") + SYNC
    play << ready()
    play >> bind(statement="s") + execute() + SYNC
    assert attempts(play) == [("key",)]


def test_a_skipped_close_closes_nothing(play: Playbook) -> None:
    prepared(play) >> bind(statement="missing") + close("S", "s") + SYNC
    play << error("26000") + ready()
    play >> bind(statement="s") + execute() + SYNC
    assert attempts(play) == [("key",)]


@pytest.mark.parametrize("skipped", [bind(portal="p"), close("P", "p")])
def test_a_portal_survives_what_was_skipped(play: Playbook, skipped: bytes) -> None:
    play >> query("BEGIN")
    play << complete("BEGIN") + ready("T")
    play >> parse(SECRET, "s") + bind(statement="s", portal="p") + parse(HARMLESS) + FLUSH
    play << PARSE_COMPLETE + BIND_COMPLETE + PARSE_COMPLETE
    play >> bind(statement="missing") + skipped + SYNC
    play << error("26000") + ready("E")
    # ROLLBACK TO a savepoint brings the transaction back, and with it the portal.
    play >> query("ROLLBACK TO a")
    play << complete("ROLLBACK") + ready("T")
    play >> execute("p") + SYNC
    assert attempts(play) == [("key",)]


def test_deallocate_forgets_statements_of_the_protocol() -> None:
    play = Playbook(limits=Limits(max_prepared=2)).logged_in()
    for number in range(5):
        prepared(play, f"s{number}") >> query(f"DEALLOCATE s{number}")
        play << complete("DEALLOCATE") + ready()
        assert play.to_client == complete("DEALLOCATE") + ready()


def test_discard_all_does_not_forget_what_was_prepared_behind_it(play: Playbook) -> None:
    play >> query("DISCARD ALL") + parse(SECRET, "s") + SYNC
    play << complete("DISCARD ALL") + ready() + PARSE_COMPLETE + ready() + VOID + ready()
    play >> bind(statement="s") + execute() + SYNC
    assert attempts(play) == [("key",)]


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_discard_all_forgets_what_was_before(play: Playbook, protocol: str) -> None:
    prepared(play)
    if protocol == "simple":
        play >> query("DISCARD ALL")
        play << complete("DISCARD ALL") + ready() + VOID + ready()
    else:
        play >> parse("DISCARD ALL") + bind() + execute() + SYNC
        play << PARSE_COMPLETE + BIND_COMPLETE + complete("DISCARD ALL") + ready() + VOID + ready()
    play >> parse(HARMLESS, "s") + bind(statement="s") + execute() + SYNC
    assert attempts(play) == []


# --- portals and cursors -------------------------------------------------------------------------------------------


def test_a_new_bind_is_not_the_suspended_execution(play: Playbook) -> None:
    play >> parse(NAMED, "s") + bind([str(OWNER).encode(), b"one"], statement="s") + execute(rows=1)
    play >> bind([str(OWNER).encode(), b"two"], statement="s") + FLUSH
    play << PARSE_COMPLETE + BIND_COMPLETE + testified("one") + row("v") + SUSPENDED + BIND_COMPLETE
    play >> execute(rows=1) + SYNC
    assert attempts(play) == [("one",), ("two",)]
    play << testified("two", clock=START + 2) + complete() + ready()
    assert [(e.statement_no, e.outcome, e.calls) for e in play.recorded] == [(1, "ok", 1), (2, "ok", 1)]


def test_two_executes_of_one_portal_at_once_have_an_outcome_each(play: Playbook) -> None:
    play >> parse(SECRET) + bind() + execute(rows=1) + execute(rows=1) + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + SUSPENDED + testified(clock=START + 2) + SUSPENDED + ready()
    assert [(e.statement_no, e.outcome, e.calls) for e in play.recorded] == [(2, "ok", 1), (1, "ok", 1)]
    assert play.session.lost() == []


def test_a_suspended_execution_that_is_skipped_keeps_its_outcome(play: Playbook) -> None:
    play >> parse(SECRET) + bind() + execute(rows=1) + FLUSH
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + SUSPENDED
    play >> bind(statement="missing", portal="other") + FLUSH
    play << error("26000")
    play >> execute(rows=1) + SYNC
    play << ready()
    assert [(e.outcome, e.calls) for e in play.recorded] == [("ok", 1)]


def test_a_portal_stays_open_over_syncs_in_a_transaction(play: Playbook) -> None:
    play >> query("BEGIN")
    play << complete("BEGIN") + ready("T")
    play >> parse(SECRET) + bind(portal="p") + execute("p", rows=1) + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + SUSPENDED + ready("T")
    assert play.recorded == []
    play >> query(HARMLESS)
    play << complete() + ready("T")
    play >> execute("p", rows=1) + SYNC
    play << testified(clock=START + 2) + row("v") + complete() + ready("T")
    assert attempts(play) == [("key",)]
    assert [(e.statement_no, e.outcome, e.calls) for e in play.recorded] == [(2, "ok", 2)]


def test_a_cursor_may_have_the_name_of_a_portal_that_is_gone(play: Playbook) -> None:
    play >> parse(HARMLESS) + bind(portal="c") + execute("c") + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + complete() + ready()
    play >> query("BEGIN") + query(f"DECLARE c CURSOR FOR {SECRET}")
    play << complete("BEGIN") + ready("T") + complete("DECLARE CURSOR") + ready("T")
    play.take()
    play >> execute("c") + SYNC
    assert attempts(play) == [("key",)]


def test_an_earlier_ready_does_not_forget_a_cursor_declared_behind_it(play: Playbook) -> None:
    play >> query(HARMLESS) + query("BEGIN") + query(f"DECLARE c CURSOR FOR {SECRET}")
    play << complete() + ready() + complete("BEGIN") + ready("T") + complete("DECLARE CURSOR") + ready("T")
    play.take()
    play >> query("FETCH 1 FROM c")
    assert attempts(play) == [("key",)]


def test_bind_to_a_missing_statement(play: Playbook) -> None:
    play >> bind(statement="missing") + describe("P") + execute() + SYNC
    play << error("26000") + ready()
    still_in_step(play)


def test_a_statement_replaced_in_the_pipeline_is_executed_as_it_was(play: Playbook) -> None:
    play >> parse(SECRET) + bind() + parse(HARMLESS) + execute() + bind() + execute() + SYNC
    assert attempts(play) == [("key",)]
    (
        play
        << PARSE_COMPLETE
        + BIND_COMPLETE
        + PARSE_COMPLETE
        + testified()
        + complete()
        + BIND_COMPLETE
        + complete()
        + ready()
    )
    assert [(e.statement_no, e.calls) for e in play.recorded] == [(1, 1)]


# --- COPY and Sync -------------------------------------------------------------------------------------------------


def test_a_sync_that_the_backend_had_not_overlooked(play: Playbook) -> None:
    play >> parse("COPY t FROM STDIN") + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + COPY_IN
    # The Sync of above or one sent while the error was on its way: the backend answers it.
    play << error("57014") + ready()
    still_in_step(play)


def test_one_ready_more_than_expected(play: Playbook) -> None:
    play >> parse("COPY t FROM STDIN") + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + COPY_IN
    play >> COPY_DATA + COPY_DONE + SYNC
    play << error("57014") + ready()
    play >> query(SECRET)
    play << ready() + testified() + complete() + ready()
    assert [(e.event, e.outcome, e.calls) for e in [*play.committed, *play.recorded]] == [
        ("attempt", None, None), ("outcome", "ok", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("end", [COPY_DONE, COPY_FAIL])
def test_copy_that_failed_before_its_end_was_sent(play: Playbook, end: bytes) -> None:
    play >> query("COPY t FROM STDIN")
    play << COPY_IN
    play >> COPY_DATA
    play << error("22P04") + ready()
    play >> COPY_DATA + end
    still_in_step(play)


def test_the_end_of_a_copy_that_never_was(play: Playbook) -> None:
    for _ in range(5000):
        play >> COPY_DONE
    assert play.session.idle
    still_in_step(play)


def test_copy_fail_in_the_extended_protocol(play: Playbook) -> None:
    play >> parse("COPY t FROM STDIN") + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + COPY_IN
    play >> COPY_DATA + COPY_FAIL + SYNC
    play << error("57014") + ready()
    still_in_step(play)


def test_two_copies_in_one_query(play: Playbook) -> None:
    play >> query("COPY t FROM STDIN; COPY t FROM STDIN") + COPY_DONE + COPY_DONE
    play << COPY_IN + complete("COPY 0") + COPY_IN + complete("COPY 0") + ready()
    still_in_step(play)


# --- what comes unasked, and ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unasked", [NOTIFICATION, notice("hello"), parameter("TimeZone", "UTC")])
def test_asynchronous_messages_at_every_place(play: Playbook, unasked: bytes) -> None:
    play >> parse(SECRET) + bind() + describe("P") + execute() + close("P", "") + SYNC + query("RESET ALL")
    play.take()
    for answer in (
        PARSE_COMPLETE,
        BIND_COMPLETE,
        NO_DATA,
        testified(),
        complete(),
        CLOSE_COMPLETE,
        ready(),
        complete("RESET"),
        ready(),
    ):
        play << unasked + answer
    assert play.to_client.count(unasked) == 9 and play.injected
    play.take()
    play << unasked + VOID + unasked + ready() + unasked
    assert play.to_client == unasked * 3
    still_in_step(play)


def test_a_shutdown_in_the_middle_is_not_taken_for_the_refusal(play: Playbook) -> None:
    play.refusing = True
    play >> query(SECRET)
    play << error("57P01", "FATAL")
    assert play.to_client == error("57P01", "FATAL")


@pytest.mark.parametrize("begun", [query(SECRET), parse(SECRET) + bind() + execute() + SYNC, FUNCTION_CALL])
def test_a_fatal_error_ends_what_is_under_way(play: Playbook, begun: bytes) -> None:
    play >> begun
    play << error("57P01", "FATAL")
    outcomes = [*play.recorded, *play.session.lost()]
    assert [(e.outcome, e.sqlstate) for e in outcomes] == ([("error", "57P01")] if begun is not FUNCTION_CALL else [])


def test_an_error_at_commit(play: Playbook) -> None:
    play >> parse(SECRET) + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + complete() + error("23503") + ready()
    assert [(e.outcome, e.calls) for e in play.recorded] == [("ok", 1)]
    still_in_step(play)


def test_a_query_in_the_middle_of_a_pipeline(play: Playbook) -> None:
    play >> parse(SECRET, "s") + query(HARMLESS) + bind(statement="s") + execute() + SYNC
    play << PARSE_COMPLETE + complete() + ready() + BIND_COMPLETE + testified() + complete() + ready()
    assert [(e.statement_no, e.outcome, e.calls) for e in play.recorded] == [(2, "ok", 1)]
    still_in_step(play)


def test_a_function_call_in_a_failed_transaction(play: Playbook) -> None:
    play >> query("BEGIN") + query("broken")
    play << complete("BEGIN") + ready("T") + error("42601") + ready("E")
    play >> FUNCTION_CALL + FUNCTION_CALL
    play << error("25P02") + ready("E") + error("25P02") + ready("E")
    still_in_step(play)


# --- the token -----------------------------------------------------------------------------------------------------


def test_a_token_set_inside_a_transaction_is_set_again_when_it_is_rolled_back(play: Playbook) -> None:
    play >> query("RESET ALL") + query("BEGIN")
    play << complete("RESET") + ready() + complete("BEGIN") + ready("T")
    assert play.injected
    play << VOID + ready("T")
    play.take()
    play >> query("ROLLBACK TO a")
    play << complete("ROLLBACK") + ready("T")
    assert play.injected
    play << VOID + ready("T")
    play.take()
    play >> query("ROLLBACK")
    play << complete("ROLLBACK") + ready()
    assert play.injected
    play << VOID + ready()
    play.take()
    play >> query("BEGIN") + query("ROLLBACK")
    play << complete("BEGIN") + ready("T") + complete("ROLLBACK") + ready()
    assert not play.injected


def test_a_renewal_that_fails_is_tried_again(play: Playbook) -> None:
    play >> query("RESET ALL")
    play << complete("RESET") + ready()
    assert play.injected
    play << error("57014") + ready()
    play.take()
    play >> query(HARMLESS)
    play << complete() + ready()
    assert play.injected and play.to_client == complete() + ready()


def test_a_token_that_failed_at_the_login_is_tried_again() -> None:
    play = Playbook()
    play << message(b"R", b"\0\0\0\0") + KEY_DATA + ready()
    play << ROW_DESCRIPTION + row(str(PID), str(START), "", "1") + complete() + ready()
    play << error("57014") + ready()
    play.take()
    play >> query(HARMLESS)
    play << complete() + ready()
    assert play.injected


# --- bounds --------------------------------------------------------------------------------------------------------


def test_what_stands_before_a_violation_goes_on() -> None:
    play = Playbook(limits=Limits(max_message=2000)).logged_in()
    with pytest.raises(ProtocolViolationError):
        play >> query(HARMLESS) + query(SECRET) + COPY_DATA + query("x" * 3000) + query(HARMLESS)
    assert play.to_backend == query(HARMLESS) + query(SECRET) + COPY_DATA
    assert attempts(play) == [("key",)]


def refused(sent: bytes) -> bytes:
    return sent[sent.index(b"\0C") + 2 : sent.index(b"\0C") + 7]


@pytest.mark.parametrize("size", [100, 30_000])
@pytest.mark.parametrize("extended", [False, True])
def test_a_large_statement_is_refused_where_that_is_asked_for(size: int, extended: bool) -> None:
    play = Playbook(limits=Limits(max_statement_memory=70_000, refuse_large=True)).logged_in()
    large = parse("x" * 100_000) + bind() + execute() + SYNC if extended else query("x" * 100_000)
    stream = query(HARMLESS) + large + query(SECRET)
    for pos in range(0, len(stream), size):
        play >> stream[pos : pos + size]
    assert b"xxx" not in play.to_backend and len(play.to_backend) < 1000
    assert play.to_backend.startswith(query(HARMLESS)) and play.to_backend.endswith(query(SECRET))
    assert [(e.event, e.outcome, e.sqlstate) for e in play.recorded] == [("refusal", "refused", "54000")]
    play << complete() + ready() + error("34000" if extended else "26000") + ready()
    assert refused(play.to_client) == b"54000" and play.to_client.endswith(ready())
    play << testified() + complete() + ready()
    assert play.session.idle and [e.calls for e in play.recorded if e.event == "outcome"] == [1]


def test_too_many_prepared_statements_with_secret_calls() -> None:
    play = Playbook(limits=Limits(max_prepared=3)).logged_in()
    for number in range(3):
        prepared(play, f"s{number}")
    play >> parse(HARMLESS, "h") + SYNC
    play << PARSE_COMPLETE + ready()
    play >> parse(SECRET, "s3") + SYNC
    assert b"secrets_getter" not in play.to_backend
    play << error("34000") + ready()
    assert refused(play.to_client) == b"54000"
    play >> close("S", "s0") + SYNC
    play << CLOSE_COMPLETE + ready()
    prepared(play, "s3")
    assert play.session.idle


@pytest.mark.parametrize(
    ("one", "tag"),
    [
        (lambda n: f"PREPARE p{n} AS {SECRET}", "PREPARE"),
        (lambda n: f"DECLARE c{n} CURSOR FOR {SECRET}", "DECLARE CURSOR"),
    ],
)
def test_too_many_of_sqls_own(one: object, tag: str) -> None:
    play = Playbook(limits=Limits(max_prepared=3)).logged_in()
    play >> query("BEGIN")
    play << complete("BEGIN") + ready("T")
    for number in range(3):
        play >> query(one(number))  # type: ignore[operator]
        play << complete(tag) + ready("T")
    play.take()
    play >> query(one(3))  # type: ignore[operator]
    play << error("26000") + ready("T")
    assert refused(play.to_client) == b"54000" and play.committed == []


def test_a_flood_of_attempts_waits_for_the_log_in_parts(play: Playbook) -> None:
    prepared(play) >> bind(statement="s", portal="p") + SYNC
    chunk = execute("p") * 2000 + SYNC
    out = play.session.from_client(chunk)
    assert isinstance(out, Step) and len(out.commit) == 256
    play.interpreter.carry_out_client(out)
    assert play.to_backend.endswith(chunk) and len(attempts(play)) == 2000


def test_a_testimony_too_long_to_be_checked_is_a_forgery() -> None:
    play = Playbook(limits=Limits(max_statement_memory=70_000)).logged_in()
    play >> query("DO ''")
    large = notice("x" * 200_000, "SPX01", "INFO")
    for pos in range(0, len(large), 5000):
        play << large[pos : pos + 5000]
    play << complete("DO") + ready()
    assert play.to_client == complete("DO") + ready()
    assert [event.event for event in play.committed] == ["forgery"]


def test_a_client_far_ahead_is_told_to_wait(play: Playbook) -> None:
    def take(chunk: bytes) -> None:
        # By the session alone: its interpreter does not take so much.
        out = play.session.from_client(chunk)
        while isinstance(out, Step) and out.again:
            out = play.session.from_client(b"")

    take(parse(HARMLESS, "s") * 1000)
    assert not play.session.above_high_water
    take(parse(HARMLESS, "s") * 1000)
    assert play.session.above_high_water and not play.session.below_low_water
    play << PARSE_COMPLETE * 1600
    assert play.session.below_low_water and not play.session.above_high_water
