"""Checks testimony against attempts: what is covered, what the log must have first, what is forged."""

from __future__ import annotations

import uuid

import pytest

from secretproxy.detect import Detector
from secretproxy.detect.arguments import NO_VALUES
from secretproxy.detect.string_literals import STANDARD
from secretproxy.session.events import Identity
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.statements import Running, Tally, call_key, resolve
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Limits, Output, Step
from secretproxy.session.stream import BackendStream
from secretproxy.session.testimony import Matching, Token
from tests.unit.playbook import KEYS, OWNER, PID, START, notice, ready, row, testified

SETTER = "encrypted_secrets.secrets_setter(uuid,text,text)"


class Scene:
    """A statement under way that reads the secret `key`, and what the matching makes of the backend's bytes."""

    def __init__(self) -> None:
        detector = Detector()
        self.state, self.output = State(Identity(uuid.uuid4()), detector, Limits(), None), Output()
        outcomes = Outcomes(self.state, self.output)
        self.pipeline = Pipeline(Names(self.state), outcomes)
        self.stream = BackendStream(self.output)
        self.token = Token(self.state, self.output, self.stream, self.pipeline, KEYS)
        self.token.promised(PID)
        self.token.answered(PID, START)
        self.matching = Matching(self.state, self.output, self.stream, outcomes, self.pipeline, self.token)
        self.state.enter(Phase.READY)
        verdict = detector.analyse(
            f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')".encode(), "utf-8", STANDARD
        )
        self.running = Running("simple", verdict)
        self.running.attempts = resolve(verdict.calls, NO_VALUES)
        self.running.covered = {
            call_key(call.function, call.owner, call.names): Tally() for call in self.running.attempts
        }
        self.pipeline.push_statement(self.running)

    def hears(self, chunk: bytes) -> Step:
        self.stream.begin(chunk)
        self.matching.begin()
        while self.stream.framer.next():
            if self.stream.framer.kind == ord("N"):
                self.matching.notice(self.stream.framer)
        out = self.stream.finish()
        return out if isinstance(out, Step) else Step()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_call_that_was_attempted_holds_nothing(scene: Scene) -> None:
    out = scene.hears(testified() + row("value") + ready())
    assert (out.forward, out.commit, out.held) == (row("value") + ready(), [], [])
    assert scene.running.calls == 1 and scene.state.testifies


def test_a_call_of_another_name_is_in_the_log_before_its_value_goes_on(scene: Scene) -> None:
    out = scene.hears(row("before") + testified("other") + row("value"))
    assert out.forward == row("before") and [held.data for held in out.held] == [row("value")]
    assert [(event.event, event.secret_names) for event in out.commit] == [("call", ("other",))]
    assert not out.unannounced, "the function was expected"


def test_a_call_of_a_function_that_no_attempt_names_is_a_surprise(scene: Scene) -> None:
    assert scene.hears(testified(function=SETTER)).unannounced


def test_a_call_by_another_user_is_a_row_of_its_own(scene: Scene) -> None:
    assert scene.hears(testified(clock=START + 1)).commit == []
    out = scene.hears(testified(clock=START + 2, jwt=uuid.UUID(int=7)))
    assert [(event.event, event.accessed_by) for event in out.commit] == [("call", uuid.UUID(int=7))]


@pytest.mark.parametrize("told", [testified(pid=PID + 1), testified(start=START + 1), testified(key=b"x" * 32)])
def test_what_is_not_of_this_backend_is_forged(scene: Scene, told: bytes) -> None:
    out = scene.hears(told + told)
    assert [(event.event, event.calls) for event in out.commit] == [("forgery", 2)] and out.forward == b""
    assert scene.running.calls == 0 and scene.matching.forgeries == 1


def test_what_is_played_again_is_forged(scene: Scene) -> None:
    assert scene.hears(testified()).commit == []
    assert [event.event for event in scene.hears(testified()).commit] == ["forgery"]


def test_forgeries_are_counted_chunk_by_chunk(scene: Scene) -> None:
    bad = notice("SPX1 nonsense", "SPX01", "INFO")
    assert [[event.calls for event in scene.hears(bad * count).commit] for count in (3, 1)] == [[3], [1]]


def test_another_process_behind_a_pooler_ends_the_session_with_its_call_in_the_log(scene: Scene) -> None:
    scene.token.answered(PID + 1, START)
    out = scene.hears(testified() + row("value"))
    assert [event.event for event in out.commit] == ["call"] and out.violation is not None
    assert scene.state.at(Phase.CLOSED) and out.forward == b""


def test_a_notice_of_somebody_elses_goes_on(scene: Scene) -> None:
    out = scene.hears(notice("SPX1 as a text") + ready())
    assert (out.forward, out.commit) == (b"", []), "no Step: all of the chunk goes on"
