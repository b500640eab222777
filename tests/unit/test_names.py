"""Checks names of statements, portals and cursors: what leads to a secret call, what is bounded, what is in doubt."""

from __future__ import annotations

import uuid

from secretproxy.detect import Detector, ResolvedCall, Verdict
from secretproxy.detect.arguments import NO_VALUES
from secretproxy.detect.string_literals import STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.events import Identity
from secretproxy.session.names import MOST_HARMLESS, Names
from secretproxy.session.statements import UNKNOWN, Portal, Prepared, Running, resolve
from secretproxy.session.states import State
from secretproxy.session.step import Limits
from tests.unit.playbook import OWNER

DETECTOR = Detector()
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"


def verdict(sql: str) -> Verdict:
    return DETECTOR.analyse(sql.encode(), "utf-8", STANDARD)


SECRET = Prepared(verdict(GETTER), None)


def names(most: int = 1000) -> Names:
    return Names(State(Identity(uuid.uuid4()), DETECTOR, Limits(max_prepared=most), None))


def portal() -> Portal:
    calls: tuple[ResolvedCall, ...] = resolve(SECRET.verdict.calls, NO_VALUES)
    return Portal(SECRET, calls, NO_VALUES, 3)


def test_a_secret_statement_is_remembered_and_can_be_undone() -> None:
    kept, harmless = names(), Prepared(HARMLESS, b"SELECT 1")
    assert kept.parse(b"a", harmless) is None and kept.remembered == ()
    undo = kept.parse(b"a", SECRET)
    assert undo is not None and undo.before is harmless and kept.remembered == (b"a",)
    kept.undo([undo], [])
    assert kept.statement(b"a") is harmless and kept.remembered == ()


def test_what_a_later_change_has_changed_again_is_undone_there() -> None:
    kept = names()
    one = kept.parse(b"a", SECRET)
    other = kept.parse(b"a", Prepared(HARMLESS, None))
    assert one is not None and other is not None
    kept.undo([one], [other])
    assert other.before is None and kept.statement(b"a") is not SECRET


def test_harmless_texts_are_bounded_by_number_and_by_bytes() -> None:
    kept = names()
    for number in range(2 * MOST_HARMLESS):
        kept.parse(b"%d" % number, Prepared(HARMLESS, b"SELECT %d" % number))
    assert len(kept.texts()) == MOST_HARMLESS
    kept = names()
    for number in range(10):
        kept.parse(b"%d" % number, Prepared(HARMLESS, b"%d" % number * 100_000))
    assert len(kept.texts()) == 2
    kept.close_statement(b"0")
    kept.parse(b"x", Prepared(HARMLESS, b"x" * 100_000))
    assert len(kept.texts()) == 2 and kept.statement(b"x") is not None


def test_statements_with_secret_calls_have_a_limit_of_their_own() -> None:
    kept = names(1)
    assert not kept.statements_full(b"a")
    kept.parse(b"a", SECRET)
    assert kept.statements_full(b"b") and not kept.statements_full(b"a")
    undo = kept.close_statement(b"a")
    assert undo is not None and not kept.statements_full(b"b")


def test_a_portal_that_is_replaced_is_told() -> None:
    kept, first = names(), portal()
    undo = kept.bind(b"", first)
    assert undo is not None and undo.before is None
    undo = kept.bind(b"", UNKNOWN)
    assert undo is not None and undo.before is first
    assert kept.bind(b"", UNKNOWN) is None
    kept.undo([undo], [])
    assert kept.portal(b"") is first and kept.portals_weigh() == 3


def test_portals_end_with_their_transaction_where_one_matters() -> None:
    kept = names()
    kept.bind(b"", UNKNOWN)
    kept.end_transaction()
    assert kept.portal(b"") is UNKNOWN
    kept.bind(b"", portal())
    kept.end_transaction()
    assert kept.portal(b"") is None


def test_executions_that_stopped_are_given_away_in_order() -> None:
    kept, one, other = names(), portal(), portal()
    runs = [Running("extended", SECRET.verdict) for _ in range(2)]
    kept.suspend(one, runs[0])
    kept.suspend(other, runs[1])
    kept.resume(one)
    assert one.suspended is None and kept.take_suspended() == [runs[1]] and kept.take_suspended() == []


def test_sql_prepares_for_protocol_and_sql_alike() -> None:
    kept = names()
    running = Running("simple", verdict(f"PREPARE p AS {GETTER}"))
    kept.enter_sql(running, NO_VALUES)
    found = kept.executed("p")
    assert found is not None and len(found.calls) == 1 and kept.remembered == (b"p",)
    kept.parse(b"s", SECRET)
    assert kept.executed("s") is SECRET.verdict and kept.executed("t") is None
    kept.unprepare(running)
    assert kept.executed("p") is None and kept.remembered == (b"s",)


def test_a_name_that_sql_gave_again_is_unprepared_there() -> None:
    kept = names()
    first, second = (Running("simple", verdict(f"PREPARE p AS {GETTER}")) for _ in range(2))
    kept.enter_sql(first, NO_VALUES)
    kept.enter_sql(second, NO_VALUES)
    made = kept.sql_calls["p"]
    kept.unprepare(first)
    assert kept.sql_calls["p"] is made and second.prepared[0].before is None
    kept.unprepare(second)
    assert kept.sql_calls == {}


def test_what_one_may_declare_is_bounded() -> None:
    kept = names(1)
    declare = verdict(f"DECLARE c CURSOR FOR {GETTER}")
    assert not kept.too_many(declare)
    kept.enter_sql(Running("simple", declare), NO_VALUES)
    assert kept.too_many(declare) and len(kept.cursors["c"]) == 1
    kept.enter_sql(Running("simple", verdict("CLOSE ALL")), NO_VALUES)
    assert kept.cursors == {} and kept.remembered == ()


def test_both_states_are_possible_until_the_pipeline_is_answered() -> None:
    kept = names()
    kept.parse(b"a", SECRET)
    undo = kept.close_statement(b"a")
    assert undo is not None
    kept.doubt(undo, may_be_skipped=True)
    assert kept.doubted(b"a", portals=False) == [], "the same pipeline: closed, or nothing of what follows runs"
    kept.end_pipeline()
    assert kept.doubted(b"a", portals=False) == [SECRET] and kept.doubted(b"a", portals=True) == []
    kept.settle(undo)
    assert kept.doubted(b"a", portals=False) == []


def test_a_name_given_in_this_pipeline_is_in_no_doubt() -> None:
    kept = names()
    kept.parse(b"a", SECRET)
    undo = kept.close_statement(b"a")
    assert undo is not None
    kept.doubt(undo, may_be_skipped=True)
    kept.end_pipeline()
    kept.parse(b"a", Prepared(HARMLESS, None))
    assert kept.doubted(b"a", portals=False) == []


def test_a_close_that_nothing_can_skip_is_in_no_doubt() -> None:
    kept = names()
    kept.parse(b"a", SECRET)
    undo = kept.close_statement(b"a")
    assert undo is not None
    kept.doubt(undo, may_be_skipped=False)
    kept.end_pipeline()
    assert undo.pipeline == 0 and kept.doubted(b"a", portals=False) == []


def test_discard_all_leaves_the_unnamed_statement() -> None:
    kept = names()
    kept.parse(b"", SECRET)
    kept.parse(b"a", SECRET)
    kept.enter_sql(Running("simple", verdict(f"PREPARE p AS {GETTER}")), NO_VALUES)
    kept.discard_all()
    assert kept.statement(b"") is SECRET and kept.statement(b"a") is None
    assert kept.sql_calls == {} and kept.remembered == ()


def test_a_new_verdict_replaces_an_old_one() -> None:
    kept = names()
    kept.parse(b"a", Prepared(HARMLESS, b"SELECT view"))
    kept.reconsider({b"SELECT view": SECRET.verdict})
    found = kept.statement(b"a")
    assert found is not None and found.verdict is SECRET.verdict and kept.remembered == (b"a",)
