"""Checks the session's token: which backend process it is of, when it is set again, and by which message."""

from __future__ import annotations

import uuid

import pytest

from secretproxy.detect import Detector
from secretproxy.session.events import Identity
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Limits, Output
from secretproxy.session.stream import BackendStream
from secretproxy.session.testimony import Keys, Token
from tests.unit.playbook import KEY, KEYS, PID, START


class Scene:
    """A token of a ready session, whose process is known."""

    def __init__(self, replication: str | None = None, keys: Keys = KEYS) -> None:
        self.state = State(Identity(uuid.uuid4()), Detector(), Limits(), replication)
        self.output = Output()
        self.pipeline = Pipeline(Names(self.state), Outcomes(self.state, self.output))
        self.token = Token(self.state, self.output, BackendStream(self.output), self.pipeline, keys)
        self.state.enter(Phase.READY)
        self.token.promised(PID)
        self.token.answered(PID, START)

    def renewed(self, *, may_inject: bool = True) -> bytes:
        """Gives what the token has the proxy say to the backend now."""
        self.token.renew(may_inject=may_inject)
        step = self.output.take()
        return b"" if step is None else step.inject


def test_a_token_is_of_a_process_and_its_start() -> None:
    token = Scene().token
    assert token.value == KEYS.token(PID, START) and not token.pooled
    assert token.is_of(PID, START) and not token.is_of(PID + 1, START) and not token.is_of(PID, START + 1)


def test_the_first_testimony_tells_a_start_that_nobody_could() -> None:
    scene = Scene()
    token = Token(scene.state, scene.output, BackendStream(scene.output), scene.pipeline, KEYS)
    token.promised(PID)
    token.answered(PID, None)
    assert token.value is None
    assert not token.is_of(PID + 1, START) and token.value is None
    assert token.is_of(PID, START) and token.value == KEYS.token(PID, START)


def test_a_process_that_was_not_promised_is_behind_a_pooler() -> None:
    token = Scene().token
    token.answered(PID + 1, START)
    assert token.pooled and token.pid == PID + 1
    assert token.is_of_another(PID, START) and not token.is_of_another(PID + 1, START)


def test_nobody_promised_is_no_pooler() -> None:
    scene = Scene()
    token = Token(scene.state, scene.output, BackendStream(scene.output), scene.pipeline, KEYS)
    token.answered(PID, START)
    assert not token.pooled and token.pid == PID


@pytest.mark.parametrize(
    ("replication", "status", "kind"), [(None, "I", b"F"), (None, "T", b"P"), ("database", "I", b"Q")]
)
def test_the_message_that_sets_it_leaves_the_clients_things_alone(
    replication: str | None, status: str, kind: bytes
) -> None:
    scene = Scene(replication)
    scene.state.transaction_status = status
    scene.token.lose()
    assert scene.renewed()[:1] == kind and not scene.pipeline.idle
    assert scene.renewed() == b"", "it is under way"


def test_a_token_that_is_there_is_not_set_again() -> None:
    assert Scene().renewed() == b""


def test_it_waits_until_the_backend_takes_a_message() -> None:
    scene = Scene()
    scene.token.lose()
    assert scene.renewed(may_inject=False) == b""
    scene.state.transaction_status = "E"
    assert scene.renewed() == b""
    scene.state.transaction_status = "I"
    scene.pipeline.push_statement(b"")
    assert scene.renewed() == b""
    assert scene.pipeline.answer_part() and scene.pipeline.ready()
    assert scene.renewed() != b""


def test_a_rollback_takes_back_what_was_set_in_its_transaction() -> None:
    scene = Scene()
    scene.token.rolled_back()
    assert scene.renewed() == b"", "it was set before"
    scene.state.transaction_status = "T"
    scene.token.lose()
    assert scene.renewed() and not scene.pipeline.ready()
    scene.token.rolled_back()
    assert scene.renewed()


def test_what_was_committed_stays() -> None:
    scene = Scene()
    scene.state.transaction_status = "T"
    scene.token.lose()
    assert scene.renewed() and not scene.pipeline.ready()
    scene.token.end_transaction()
    scene.token.rolled_back()
    assert scene.renewed() == b""


def test_a_newer_key_signs_anew() -> None:
    keys = Keys({1: KEY})
    scene = Scene(keys=keys)
    scene.token.lose()
    assert scene.renewed() and not scene.pipeline.ready()
    keys.replace({1: KEY, 2: KEY[::-1]})
    assert b"1.2." in scene.renewed()


def test_physical_replication_has_no_token() -> None:
    scene = Scene("true")
    scene.token.lose()
    assert scene.renewed() == b""
