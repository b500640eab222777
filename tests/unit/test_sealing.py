"""The answer of a statement that only reads: none of it goes on before the log has its access, whatever comes between.

What the log gets is one row; where that cannot be, it is an attempt, then what becomes of it, as with other statements.
"""

from __future__ import annotations

import pytest

from secretproxy.session.interpreter import Nobody
from secretproxy.session.stream import MOST_KEPT
from tests.support.effects import given
from tests.unit.playbook import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    FLUSH,
    GETTER,
    NO_DATA,
    OWNER,
    PARSE_COMPLETE,
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
    notice,
    parameter,
    parse,
    query,
    ready,
    row,
    testified,
)

READ = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
WRITE = f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'key', 'v')"
ANSWER = ROW_DESCRIPTION + row("the value") + complete()
EXTENDED = parse(READ) + bind() + describe("P") + execute() + SYNC


def sealed() -> Playbook:
    """A session whose log takes accesses."""
    return Playbook(takes_accesses=True).logged_in()


class Waits(Playbook):
    """A session whose log is slow: what waits for it waits until `settle`."""

    def commit_access(self, step: object) -> None:
        self.committed += step.commit  # type: ignore[attr-defined]

    def commit_testimony(self, step: object) -> None:
        self.committed += step.commit  # type: ignore[attr-defined]


def slow() -> Waits:
    play = Waits(takes_accesses=True)
    play.logged_in()
    return play


def test_a_read_runs_at_once_and_is_one_row() -> None:
    play = sealed()
    play >> query(READ)
    assert play.take() == (query(READ), b"")
    play << ROW_DESCRIPTION << testified() << row("the value")
    assert play.take() == (b"", b"") and not play.said
    play << complete() + ready()
    assert play.said == [("access", 1, ("key",), "ok", None, 1)]
    assert play.to_client == ANSWER + ready()
    (event,) = play.committed
    assert (event.function, event.owner_id, event.operation, event.protocol) == (GETTER, OWNER, "read", "simple")
    assert event.role is None and event.fingerprint and not play.recorded


def test_nothing_goes_on_before_the_log_has_it() -> None:
    play = slow()
    play >> EXTENDED
    play << PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + testified() + row("the value") + complete() + ready()
    assert play.to_client == b"" and [event.event for event in play.committed] == ["access"]
    play >> query("SELECT 1")
    play << ROW_DESCRIPTION + row("1") + complete() + ready()
    assert play.to_client == b""
    play.interpreter.testimony_committed()
    answer = PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + row("the value") + complete() + ready()
    assert play.to_client == answer + ROW_DESCRIPTION + row("1") + complete() + ready()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_chunks_of_any_length_are_kept(cut: int) -> None:
    play = slow()
    play >> EXTENDED
    answer = PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + testified() + row("the value") + complete() + ready()
    for at in range(0, len(answer), cut):
        assert play.to_client == b""
        play << answer[at : at + cut]
    assert [event.event for event in play.committed] == ["access"] and play.to_client == b""
    play.interpreter.testimony_committed()
    assert play.to_client == answer.replace(testified(), b"")


def test_it_says_how_it_ended() -> None:
    play = sealed()
    for sqlstate, outcome in ("22023", "error"), ("57014", "cancelled"):
        play >> EXTENDED
        play << PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + error(sqlstate) + ready()
        assert [row[3:] for row in play.said] == [(outcome, sqlstate, 0)] and play.said[0][0] == "access"
        assert play.to_client.endswith(error(sqlstate) + ready())
        play.take()
        play >> query(READ)
        play << error(sqlstate) + ready()
        assert [row[3:] for row in play.said] == [(outcome, sqlstate, 0)]
        play.take()


def test_several_calls_of_a_statement_are_a_row_each() -> None:
    play = sealed()
    play >> query(READ + f", encrypted_secrets.secrets_getter('{OWNER}', 'other')")
    play << ROW_DESCRIPTION + testified() + testified("other", clock=START + 2) + row("a", "b") + complete() + ready()
    assert play.said == [("access", 1, ("key",), "ok", None, 1), ("access", 1, ("other",), "ok", None, 1)]


@pytest.mark.parametrize(
    "statement",
    [
        WRITE,
        READ + "; SELECT 1",
        READ + " FROM t",
        READ + " || 'x'",
        f"SELECT f(encrypted_secrets.secrets_getter('{OWNER}', 'key'))",
        f"WITH w AS (DELETE FROM t RETURNING 1) {READ}",
        f"CREATE TABLE t AS {READ}",
        READ.replace("SELECT", "SELECT DISTINCT"),
        READ + " INTO t",
        READ.replace("'key'", "f()"),
        READ.replace("'key'", "'key'::public.domain"),
        f"SELECT encrypted_secrets.secrets_verify('{OWNER}', 'key', 'v')",
        f"SELECT secrets_getter('{OWNER}', 'key')",
        f"EXPLAIN ANALYZE {READ}",
        f"DO $$BEGIN PERFORM encrypted_secrets.secrets_getter('{OWNER}', 'key'); END$$",
    ],
)
def test_everything_else_waits_for_its_attempts(statement: str) -> None:
    play = slow()
    play.refusing = True
    play >> query(statement)
    assert statement.encode() not in play.to_backend and not play.committed[0].outcome


def test_a_read_behind_a_statement_waits() -> None:
    play = sealed()
    play >> query("SELECT 1") + query(READ)
    assert play.said == [("attempt", 2, ("key",), None, None, None)]


def test_the_second_of_a_pipeline_waits_and_the_answers_keep_their_order() -> None:
    play = sealed()
    one = parse(READ) + bind() + execute()
    play >> one + one.replace(b"'key'", b"'oth'") + SYNC
    assert [row[0] for row in play.said] == ["attempt"] and play.said[0][2] == ("oth",)
    play << (PARSE_COMPLETE + BIND_COMPLETE + testified() + row("a") + complete())
    assert [row[0] for row in play.said] == ["attempt", "access"]
    play << PARSE_COMPLETE + BIND_COMPLETE + testified("oth", clock=START + 2) + row("b") + complete() + ready()
    answer = PARSE_COMPLETE + BIND_COMPLETE + row("a") + complete()
    assert play.to_client == answer + PARSE_COMPLETE + BIND_COMPLETE + row("b") + complete() + ready()
    assert [row[:4] for row in play.said][2:] == [("outcome", 2, None, "ok")]


def test_a_long_answer_has_its_attempt_first() -> None:
    play = slow()
    play >> query(READ)
    play << ROW_DESCRIPTION + testified() + row("x" * MOST_KEPT)
    assert [event.event for event in play.committed] == ["attempt"] and play.to_client == b""
    play.interpreter.testimony_committed()
    assert play.to_client == ROW_DESCRIPTION + row("x" * MOST_KEPT)
    play << complete() + ready()
    assert [(event.event, event.outcome, event.calls) for event in play.recorded] == [("outcome", "ok", 1)]


def test_what_takes_long_has_its_attempt_first() -> None:
    play = slow()
    play >> query(READ)
    play << ROW_DESCRIPTION
    assert play.interpreter.unseal() and [event.event for event in play.committed] == ["attempt"]
    assert not play.interpreter.unseal() and play.to_client == b""
    play.interpreter.testimony_committed()
    assert play.to_client == ROW_DESCRIPTION
    play << testified() + row("v") + complete() + ready()
    assert [event.event for event in play.committed] == ["attempt"]
    assert play.to_client == ROW_DESCRIPTION + row("v") + complete() + ready()


def test_a_portal_that_stops_at_its_limit_has_its_attempt() -> None:
    play = sealed()
    play >> query("BEGIN")
    play << complete("BEGIN") + ready("T")
    play >> parse(READ) + bind() + execute(rows=1) + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + SUSPENDED + ready("T")
    assert play.to_client.endswith(row("v") + SUSPENDED + ready("T"))
    play >> query("COMMIT")
    play << complete("COMMIT") + ready()
    assert [row[:4] for row in play.said] == [("attempt", 2, ("key",), None), ("outcome", 2, None, "ok")]


def test_a_portal_that_ends_with_its_transaction_is_one_row() -> None:
    play = sealed()
    play >> parse(READ) + bind() + execute(rows=1) + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + SUSPENDED + ready()
    assert [row[:4] for row in play.said] == [("access", 1, ("key",), "ok")]
    assert play.to_client.endswith(row("v") + SUSPENDED + ready())


def test_a_call_that_nothing_announced_makes_it_a_statement_like_any_other() -> None:
    play = slow()
    play >> query(READ)
    play << ROW_DESCRIPTION + testified() + testified("other", clock=START + 2) + row("v") + complete() + ready()
    assert [(event.event, event.secret_names) for event in play.committed] == [
        ("attempt", ("key",)),
        ("call", ("other",)),
    ]
    assert play.to_client == b"" and not play.recorded
    play.interpreter.testimony_committed()
    assert [(event.event, event.outcome) for event in play.recorded] == [("outcome", "ok")]


def test_a_forgery_is_recorded_before_anything_goes_on() -> None:
    play = slow()
    play >> query(READ)
    play << ROW_DESCRIPTION + testified(key=bytes(32)) + row("v")
    assert [event.event for event in play.committed] == ["attempt", "forgery"] and play.to_client == b""


def test_a_log_that_fails_replaces_the_answer() -> None:
    play = sealed()
    play.refusing = True
    play >> query(READ)
    (
        play
        << ROW_DESCRIPTION
        + testified()
        + notice("the value")
        + row("the value")
        + parameter("TimeZone", "UTC")
        + complete()
        + ready()
    )
    assert b"the value" not in play.to_client and b"58030" in play.to_client
    assert play.to_client.startswith(ROW_DESCRIPTION + parameter("TimeZone", "UTC")) and play.to_client.endswith(
        ready()
    )
    assert [row[:1] + row[3:] for row in play.said] == [
        ("access", "ok", None, 1),
        ("outcome", "refused", "58030", None),
    ]
    play.take()
    play >> EXTENDED
    (
        play
        << PARSE_COMPLETE
        + BIND_COMPLETE
        + ROW_DESCRIPTION
        + testified(clock=START + 2)
        + row("the value")
        + complete()
        + ready()
    )
    assert play.to_client.startswith(PARSE_COMPLETE + BIND_COMPLETE + ROW_DESCRIPTION + b"E")
    assert b"the value" not in play.to_client and play.to_client.endswith(ready())


@pytest.mark.parametrize(
    "kind", ["in a transaction", "with a statement behind", "with a Close behind", "without a Sync"]
)
def test_an_answer_that_cannot_be_replaced_waits_for_the_log(kind: str) -> None:
    """What is behind it has happened, so an error would be a lie: the log has it, or the session ends."""
    play = slow()
    status = "I"
    if kind == "in a transaction":
        play >> query("BEGIN")
        play << complete("BEGIN") + ready("T")
        status = "T"
    play.take()
    replaced: list[object] = []
    play.commit_access = lambda step: replaced.append(step)  # type: ignore[method-assign]
    behind = {"with a statement behind": parse("SELECT 1") + bind() + execute(), "with a Close behind": close("P", "")}
    play >> parse(READ) + bind() + execute() + behind.get(kind, b"") + (FLUSH if kind == "without a Sync" else SYNC)
    play << PARSE_COMPLETE + BIND_COMPLETE + testified() + row("v") + complete()
    if kind == "with a statement behind":
        play << PARSE_COMPLETE + BIND_COMPLETE + row("1") + complete()
    elif kind == "with a Close behind":
        play << CLOSE_COMPLETE
    if kind != "without a Sync":
        play << ready(status)
    assert not replaced and [event.event for event in play.committed] == ["access"] and play.to_client == b""


def test_a_client_that_goes_away_is_told_of() -> None:
    play = slow()
    play >> query(READ)
    play << ROW_DESCRIPTION + testified()
    play.session.client_gone = True
    play.interpreter.lose_client()
    _, *others = given(play)
    play.interpreter.read_orphan(Nobody(), *others)
    play << row("v") + complete() + ready()
    assert play.to_client == b""
    assert [row[:1] + row[3:] for row in play.said] == [("access", "lost", None, 1)]


def test_a_client_that_goes_away_while_the_log_is_waited_for_is_told_of() -> None:
    play = slow()
    play >> query(READ)
    play << ROW_DESCRIPTION + testified() + row("v") + complete() + ready()
    play.interpreter.lose_client()
    assert [row[:1] + row[3:] for row in play.said] == [("access", "ok", None, 1), ("outcome", "lost", None, None)]
    assert play.to_client == b""


@pytest.mark.parametrize(
    "heard", [b"", ROW_DESCRIPTION + testified(), ROW_DESCRIPTION + testified() + row("v") + complete()]
)
def test_a_backend_that_is_lost_leaves_the_row(heard: bytes) -> None:
    play = slow()
    play >> query(READ)
    play << heard
    events = play.session.lost()
    assert [(event.event, event.outcome, event.calls) for event in events] == [("access", "lost", int(bool(heard)))]
    assert play.to_client == b""


def test_what_ended_and_was_not_told_is_lost_with_the_session() -> None:
    play = slow()
    play >> EXTENDED
    play << PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + testified() + row("v") + complete()
    assert play.to_client == b"" and not play.committed
    assert [(event.event, event.outcome, event.calls) for event in play.session.lost()] == [("access", "lost", 1)]


def test_a_log_in_an_outage_gets_the_attempt_first() -> None:
    play = sealed()
    play.log.takes_accesses = False
    play >> query(READ)
    assert [row[0] for row in play.said] == ["attempt"]


def test_functions_that_may_be_silent_wait_for_their_attempts() -> None:
    play = sealed()
    play.session.expect_silence(frozenset({"secrets_getter"}))
    play >> query(READ)
    assert [row[0] for row in play.said] == ["attempt"]
