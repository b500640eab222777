"""Checks the pipeline: which answers are due, what the backend skips and overlooks, which number a statement has and
how it ends."""

from __future__ import annotations

import uuid

import pytest

from secretproxy.detect import Detector
from secretproxy.detect.arguments import NO_VALUES
from secretproxy.detect.string_literals import STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.events import Identity, Protocol
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    DESCRIBE,
    INJECTED,
    PARSE,
    UNKNOWN,
    Describing,
    Portal,
    Prepared,
    Running,
    resolve,
)
from secretproxy.session.states import State
from secretproxy.session.step import Limits, Output
from tests.unit.playbook import OWNER

DETECTOR = Detector()
SECRET = Prepared(
    DETECTOR.analyse(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')".encode(), "utf-8", STANDARD), None
)


class Scene:
    """A pipeline and what it says of how statements ended."""

    def __init__(self) -> None:
        state, self.output = State(Identity(uuid.uuid4()), DETECTOR, Limits(), None), Output()
        self.names = Names(state)
        self.pipeline = Pipeline(self.names, Outcomes(state, self.output))

    def secret(self, protocol: Protocol = "extended", portal: Portal | None = None) -> Running:
        """Gives an execution that the log knows of."""
        running = Running(protocol, SECRET.verdict, None, portal)
        running.attempts = resolve(SECRET.verdict.calls, NO_VALUES)
        return running

    @property
    def ended(self) -> list[tuple[int | None, str | None, str | None]]:
        """Gives number, outcome and SQLSTATE of what has ended since the last look."""
        step = self.output.take()
        return [] if step is None else [(event.statement_no, event.outcome, event.sqlstate) for event in step.record]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_statements_are_numbered_as_they_are_sent(scene: Scene) -> None:
    one, other = scene.secret(), scene.secret("simple")
    scene.pipeline.push_statement(one)
    scene.pipeline.push_statement(b"SELECT 1")
    scene.pipeline.push_statement(other)
    assert (one.number, other.number, scene.pipeline.started, scene.pipeline.due) == (1, 3, 3, 3)


def test_a_pipeline_is_answered_entry_by_entry(scene: Scene) -> None:
    pipeline = scene.pipeline
    for entry in (PARSE, BIND, DESCRIBE):
        pipeline.push(entry)
    pipeline.push_statement(scene.secret())
    pipeline.sync()
    assert all(pipeline.answered(kind) for kind in (PARSE, BIND, DESCRIBE)) and pipeline.due == 2
    pipeline.completed()
    assert scene.ended == [(1, "ok", None)]
    assert pipeline.ready() and pipeline.idle


def test_answers_of_another_kind_end_nothing(scene: Scene) -> None:
    scene.pipeline.push(BIND)
    assert scene.pipeline.answered(PARSE) and scene.pipeline.due == 1


def test_what_an_error_skips_has_failed_with_it(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push(PARSE)
    pipeline.push_statement(scene.secret())
    pipeline.sync()
    pipeline.push_statement(scene.secret("simple"))
    head = pipeline.failing()
    assert head == PARSE
    pipeline.failed(head, "42601", fatal=False)
    assert scene.ended == [(1, "error", "42601")] and not pipeline.skipping
    assert pipeline.ready() and pipeline.due == 1
    assert pipeline.answer_part()
    pipeline.completed()
    assert scene.ended == [], "a Query may have more results"
    assert pipeline.ready()
    assert scene.ended == [(2, "ok", None)]


def test_what_follows_an_error_is_skipped_up_to_the_sync(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push(PARSE)
    pipeline.failed(PARSE, "42601", fatal=False)
    assert pipeline.skipping
    pipeline.push(BIND)
    pipeline.push_statement(scene.secret())
    assert scene.ended == [(1, "error", None)] and pipeline.idle
    pipeline.sync()
    assert not pipeline.skipping and pipeline.due == 1


def test_a_skipped_change_of_a_name_is_undone(scene: Scene) -> None:
    pipeline = scene.pipeline
    undo = scene.names.parse(b"a", SECRET)
    assert undo is not None
    pipeline.push_undo(undo)
    pipeline.sync()
    pipeline.failed(undo, "42601", fatal=False)
    assert scene.names.statement(b"a") is None


def test_a_closed_portal_ends_what_it_had_under_way(scene: Scene) -> None:
    pipeline, portal = scene.pipeline, Portal(SECRET, (), NO_VALUES)
    undo = scene.names.bind(b"p", portal)
    assert undo is not None
    pipeline.push_undo(undo)
    pipeline.push_statement(scene.secret(portal=portal))
    assert pipeline.answered(BIND)
    pipeline.suspended()
    assert portal.suspended is not None and scene.ended == []
    undo = scene.names.close_portal(b"p")
    assert undo is not None
    pipeline.push_undo(undo)
    assert scene.ended == [(1, "ok", None)] and not portal.current and pipeline.answered(CLOSE)


def test_an_execution_goes_on_where_it_stopped(scene: Scene) -> None:
    pipeline, portal = scene.pipeline, Portal(SECRET, (), NO_VALUES)
    running = scene.secret(portal=portal)
    pipeline.push_statement(running)
    pipeline.suspended()
    assert portal.suspended is running
    pipeline.resume(portal, running)
    assert portal.suspended is None and pipeline.started == 2
    pipeline.completed()
    assert scene.ended == [(1, "ok", None)]


def test_a_copy_overlooks_syncs_up_to_its_end(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push_statement(UNKNOWN)
    pipeline.sync()
    pipeline.copy_end()
    pipeline.sync()
    pipeline.copy_in()
    pipeline.completed()
    assert pipeline.due == 1 and pipeline.ready() and pipeline.idle


def test_a_sync_within_a_copy_is_not_answered(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push_statement(UNKNOWN)
    pipeline.copy_in()
    pipeline.sync()
    assert pipeline.due == 1
    pipeline.copy_end()
    pipeline.sync()
    assert pipeline.due == 2


def test_answers_to_the_proxys_own_are_told(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.inject()
    assert pipeline.head() == INJECTED
    assert not pipeline.answer_part() and not pipeline.answered(DESCRIBE) and not pipeline.ready() and pipeline.idle
    assert pipeline.ready(), "nobody's but the client's, if it comes"


def test_what_is_called_between_statements_counts_with_the_one_before(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push_statement(UNKNOWN)
    pipeline.sync()
    pipeline.answer_part()
    pipeline.completed()
    running = pipeline.under_way()
    running.calls = 1
    assert pipeline.under_way() is running and running.number == 1
    assert pipeline.ready()
    assert scene.ended == [(1, "ok", None)]


def test_the_parameter_types_of_a_described_statement_are_asked_for(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push(Describing(SECRET))
    assert pipeline.described() is SECRET
    assert pipeline.answered(DESCRIBE) and pipeline.idle and pipeline.described() is None


def test_what_was_under_way_is_lost_with_the_connection(scene: Scene) -> None:
    pipeline, portal = scene.pipeline, Portal(SECRET, (), NO_VALUES)
    pipeline.push_statement(scene.secret(portal=portal))
    pipeline.suspended()
    failed = scene.secret("simple")
    pipeline.push_statement(failed)
    pipeline.failed(failed, "22012", fatal=False)
    pipeline.push_statement(scene.secret())
    pipeline.lost()
    assert scene.ended == [(2, "error", "22012"), (3, "lost", None), (1, "lost", None)] and pipeline.idle


def test_a_harmless_query_is_a_running_only_where_something_is_told_of_it(scene: Scene) -> None:
    pipeline = scene.pipeline
    pipeline.push_statement(b"SELECT 1")
    pipeline.push_statement(b"SELECT 2")
    running = pipeline.under_way()
    assert (running.number, running.text, running.verdict) == (1, b"SELECT 1", HARMLESS) and pipeline.head() is running
    assert pipeline.at_statement and not pipeline.nothing_else_due
