"""Checks outcomes: what the log hears of a statement's end, one row for all its attempts or one for each."""

from __future__ import annotations

import uuid

import pytest

from secretproxy.detect import Detector
from secretproxy.detect.arguments import NO_VALUES
from secretproxy.detect.string_literals import STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session import pipeline as outcomes
from secretproxy.session.events import Event, Identity
from secretproxy.session.frontend import TOO_LONG
from secretproxy.session.pipeline import Outcomes
from secretproxy.session.statements import Running, Tally, call_key, resolve
from secretproxy.session.states import State
from secretproxy.session.step import Limits, Output
from tests.unit.playbook import GETTER, OWNER

DETECTOR = Detector()


class Scene:
    """Statements that read these secrets, and what is recorded of them."""

    def __init__(self) -> None:
        self.output = Output()
        self.state = State(Identity(uuid.uuid4(), "app"), DETECTOR, Limits(), None)
        self.state.testifies = True
        self.outcomes = Outcomes(self.state, self.output)

    def running(self, *names: str) -> Running:
        sql = "SELECT " + ", ".join(f"encrypted_secrets.secrets_getter('{OWNER}', '{name}')" for name in names)
        running = Running("simple", DETECTOR.analyse(sql.encode(), "utf-8", STANDARD), sql.encode())
        running.attempts = resolve(running.verdict.calls, NO_VALUES)
        running.covered = {call_key(call.function, call.owner, call.names): Tally() for call in running.attempts}
        running.number = 1
        return running

    def told(self, running: Running, name: str, user: uuid.UUID | None = None) -> None:
        running.calls += 1
        assert running.covered[call_key(GETTER, OWNER, (name,))].takes(None, user)

    @property
    def recorded(self) -> list[Event]:
        step = self.output.take()
        return [] if step is None else step.record


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_one_row_speaks_for_all_attempts_of_one_kind(scene: Scene) -> None:
    running = scene.running("a", "b")
    for name in ("a", "b"):
        scene.told(running, name)
    scene.outcomes.end(running, "ok")
    (event,) = scene.recorded
    assert (event.outcome, event.calls, event.secret_names) == ("ok", 1, None)


def test_attempts_that_differ_have_a_row_each(scene: Scene) -> None:
    running = scene.running("a", "b")
    scene.told(running, "a")
    scene.outcomes.end(running, "ok")
    assert {(event.secret_names, event.calls) for event in scene.recorded} == {(("a",), 1), (("b",), 0)}


def test_who_called_stands_in_the_outcome(scene: Scene) -> None:
    running, user = scene.running("a"), uuid.UUID(int=7)
    scene.told(running, "a", user)
    scene.outcomes.end(running, "ok")
    assert [event.accessed_by for event in scene.recorded] == [user]


def test_where_nothing_testifies_nobody_can_tell_how_often_it_ran(scene: Scene) -> None:
    scene.state.testifies = False
    scene.outcomes.end(scene.running("a"), "ok")
    assert [event.calls for event in scene.recorded] == [None]


@pytest.mark.parametrize(
    ("outcome", "sqlstate", "gone", "refused", "said"),
    [
        ("error", "57014", False, False, "cancelled"),
        ("error", "22012", False, False, "error"),
        ("ok", None, True, False, "lost"),
        ("error", "22012", True, False, "error"),
        ("error", "26000", False, True, "refused"),
    ],
)
def test_an_end_is_called_by_its_name(
    scene: Scene, outcome: str, sqlstate: str | None, gone: bool, refused: bool, said: str
) -> None:
    running = scene.running("a")
    running.sqlstate, running.refused = sqlstate, TOO_LONG if refused else None
    scene.state.client_gone = gone
    scene.outcomes.end(running, outcome)  # type: ignore[arg-type]
    assert [(event.outcome, event.sqlstate) for event in scene.recorded] == [(said, sqlstate)]


def test_what_the_log_does_not_know_of_has_no_end_there(scene: Scene) -> None:
    scene.outcomes.end(Running("simple", HARMLESS, b"SELECT 1"), "ok")
    assert scene.recorded == []


def test_a_statements_text_is_let_go_for_its_fingerprint(scene: Scene) -> None:
    running = Running("simple", HARMLESS, b"SELECT 1")
    event = scene.outcomes.event(running, "call")
    assert event.fingerprint == running.fingerprint is not None and running.text is None


@pytest.mark.parametrize(
    ("function", "known"),
    [(GETTER, True), ("encrypted_secrets.other(uuid)", False), ("public.secrets_getter(uuid)", False)],
)
def test_only_our_functions_testify(function: str, known: bool) -> None:
    assert outcomes.testifies(function, frozenset()) is known
