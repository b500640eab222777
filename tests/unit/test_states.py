"""Checks the state of a session: which phase follows which, and what the backend reports."""

from __future__ import annotations

import uuid

import pytest

from secretproxy.detect import Detector
from secretproxy.session.events import Identity
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Limits


def state(replication: str | None = None) -> State:
    return State(Identity(uuid.uuid4(), "app", "app"), Detector(), Limits(), replication)


@pytest.mark.parametrize(
    "way", [[Phase.GREETING, Phase.READY, Phase.CLOSED, Phase.CLOSED], [Phase.READY], [Phase.CLOSED]]
)
def test_a_session_goes_through_its_phases(way: list[Phase]) -> None:
    one = state()
    for phase in way:
        one.enter(phase)
        assert one.at(phase)


@pytest.mark.parametrize("phase", [Phase.LOGIN, Phase.GREETING, Phase.READY])
def test_nothing_follows_the_end(phase: Phase) -> None:
    one = state()
    one.enter(Phase.CLOSED)
    with pytest.raises(AssertionError):
        one.enter(phase)


def test_a_ready_session_is_not_greeted_again() -> None:
    one = state()
    one.enter(Phase.READY)
    with pytest.raises(AssertionError):
        one.enter(Phase.GREETING)


@pytest.mark.parametrize(
    ("client", "server", "codec", "raw"),
    [
        ("LATIN1", "UTF8", "latin-1", False),
        ("SQL_ASCII", "EUC_JP", "euc_jp", False),
        ("UTF8", "SQL_ASCII", "latin-1", True),
    ],
)
def test_texts_are_written_as_the_backend_reports(client: str, server: str, codec: str, raw: bool) -> None:
    one = state()
    one.report(b"client_encoding", client.encode())
    one.report(b"server_encoding", server.encode())
    assert (one.codec, one.raw) == (codec, raw)


def test_an_application_may_name_itself_anew() -> None:
    one = state()
    one.report(b"application_name", b"batch")
    assert one.identity.application_name == "batch" and one.identity.db_user == "app"
    one.report(b"application_name", b"")
    assert one.identity.application_name is None


def test_replication_is_of_two_kinds() -> None:
    assert [(state(word).physical, state(word).logical) for word in (None, "true", "ON", "database", "off")] == [
        (False, False), (True, False), (True, False), (False, True), (False, False),
    ]  # fmt: skip
