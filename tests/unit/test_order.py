"""Checks what the log has first: no testimony is covered by an attempt that the log has not got yet, however far a
client has got the session from what the backend is at."""

from __future__ import annotations

import pytest

from secretproxy.session.step import Step
from secretproxy.wire.errors import ProtocolViolationError
from tests.unit.playbook import (
    BIND_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_IN,
    FLUSH,
    OWNER,
    PARSE_COMPLETE,
    START,
    SYNC,
    Playbook,
    bind,
    complete,
    error,
    execute,
    message,
    parse,
    query,
    ready,
    row,
    testified,
)

SECRET = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
HIDDEN = "DO 'that does not show what it calls'"
COPY = parse("COPY t FROM STDIN") + bind() + execute()
COPYING = PARSE_COMPLETE + BIND_COMPLETE + COPY_IN
FAILED = error("22P04") + ready()
ANSWER = testified() + row("value") + complete("DO") + ready()


class SlowLog(Playbook):
    """A playbook whose log takes nothing until it is told to."""

    def commit_attempts(self, step: Step) -> None:
        self.committed += step.commit

    def commit_testimony(self, step: Step) -> None:
        self.committed += step.commit


@pytest.fixture
def play() -> SlowLog:
    play = SlowLog()
    play.logged_in()
    return play


def held_for_a_call(play: SlowLog, statement: int) -> None:
    """The value is not out, and the call is a row of its own."""
    assert b"value" not in play.to_client
    assert [(e.event, e.statement_no) for e in play.committed if e.event == "call"] == [("call", statement)]


# --- three ways to have an attempt stand where the backend is not yet -----------------------------------------------


def test_a_sync_that_a_failed_copy_had_not_read(play: SlowLog) -> None:
    """All of it is sent at once: the backend ends the COPY before the Sync, runs what follows, and overlooks the
    CopyDone."""
    play >> COPY + COPY_DATA + SYNC + query(HIDDEN) + COPY_DONE + SYNC + query(SECRET)
    play << COPYING + FAILED + ANSWER
    held_for_a_call(play, 2)


def test_a_sync_that_came_behind_the_failure_of_the_copy(play: SlowLog) -> None:
    play >> COPY
    play << COPYING
    play >> COPY_DATA + SYNC + query(HIDDEN) + COPY_DONE + SYNC + query(SECRET)
    play << FAILED + ANSWER
    held_for_a_call(play, 2)


def test_the_end_of_a_copy_behind_very_many_messages(play: SlowLog) -> None:
    play >> parse("SELECT 1") * 1024 + COPY + COPY_DONE + SYNC + query(HIDDEN) + query(SECRET)
    play << PARSE_COMPLETE * 1025 + BIND_COMPLETE + COPY_IN + complete("COPY 0") + ready() + ANSWER
    held_for_a_call(play, 2)


def test_an_answer_too_many(play: SlowLog) -> None:
    """Whatever makes the session believe that a statement ended, what waits for the log has not been sent."""
    play >> query(HIDDEN) + query(SECRET)
    play << complete("DO") + ready() + ANSWER
    held_for_a_call(play, 1)
    assert not [event for event in play.recorded if event.statement_no == 2]


def test_an_error_too_many(play: SlowLog) -> None:
    play >> query(HIDDEN) + parse(SECRET) + bind() + execute() + SYNC
    play << complete("DO") + ready() + PARSE_COMPLETE + BIND_COMPLETE + error("57014") + ANSWER
    held_for_a_call(play, 1)
    assert not [event for event in play.recorded if event.statement_no == 2]


@pytest.mark.parametrize("rest", [b"", SYNC + query(SECRET)])
def test_an_attempt_that_is_in_the_log_covers_its_call(play: SlowLog, rest: bytes) -> None:
    play >> parse(SECRET) + bind() + execute() + rest
    play.interpreter.attempts_committed()
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("value") + complete()
    assert b"value" in play.to_client
    assert [event.event for event in play.committed] == ["attempt"] * (1 + bool(rest))
    assert [(event.statement_no, event.outcome, event.calls) for event in play.recorded] == [(1, "ok", 1)]


def test_a_refused_statement_is_one_that_was_sent(play: SlowLog) -> None:
    play >> query(SECRET) + query("SELECT 1")
    play.interpreter.refuse(taken=False)
    play.interpreter.proceed()
    play << error("26000") + ready() + complete() + ready()
    assert b"58030" in play.to_client and play.session.idle


# --- the same, to the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syncs", [1, 2, 5])
def test_behind_a_copy_that_failed_each_statement_has_its_own_end(syncs: int) -> None:
    """The backend has read one of the Syncs as the end of what it skipped, and answers those behind it: any number of
    them."""
    for answered in range(1, syncs + 1):
        play = Playbook().logged_in()
        play >> COPY + SYNC * syncs + query(SECRET) + COPY_DONE + SYNC
        play << COPYING + error("22P04") + ready() * answered + testified() + complete() + ready() + ready()
        assert [(e.event, e.statement_no, e.outcome, e.calls) for e in [*play.committed, *play.recorded]] == [
            ("attempt", 2, None, None), ("outcome", 2, "ok", 1),
        ]  # fmt: skip
        assert play.session.idle


def test_the_same_where_the_copy_was_a_query() -> None:
    play = Playbook().logged_in()
    play >> query("COPY t FROM STDIN") + SYNC + SYNC + query(SECRET)
    play << COPY_IN + error("22P04") + ready() + ready() + ready() + testified() + complete() + ready()
    assert [(e.event, e.outcome, e.calls) for e in [*play.committed, *play.recorded]] == [
        ("attempt", None, None),
        ("outcome", "ok", 1),
    ]
    assert play.session.idle


# --- a message that is answered where none is due -------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", query("SELECT 1"), query("DISCARD ALL"), COPY + COPY_DATA])
@pytest.mark.parametrize("content", [b"x", b"\0", b"x" * 100_000])
def test_a_flush_with_content_ends_the_session(before: bytes, content: bytes) -> None:
    """The backend passes over all that follows, or over nothing. Nobody could tell what it is at."""
    play = Playbook().logged_in()
    with pytest.raises(ProtocolViolationError):
        play >> before + FLUSH + message(b"H", content) + query(SECRET)
    assert play.to_backend == (before + FLUSH if before else FLUSH) and play.committed == []


def test_later_answers_are_those_of_their_own_statements(play: SlowLog) -> None:
    play >> query(SECRET)
    play.interpreter.attempts_committed()
    play << testified(clock=START + 1) + row("value") + complete() + ready()
    play >> query(HIDDEN) + query(SECRET)
    play << testified(clock=START + 2) + row("second")
    assert b"second" not in play.to_client
    assert [(e.event, e.statement_no) for e in play.committed] == [("attempt", 1), ("attempt", 3), ("call", 2)]
