"""Checks attempts: a verdict at once or from elsewhere, what waits for the log, and what goes in the place of what is
refused."""

from __future__ import annotations

import uuid

from secretproxy.detect import Detector
from secretproxy.detect.arguments import NO_VALUES
from secretproxy.detect.string_literals import EITHER, ESCAPES, STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.events import Identity
from secretproxy.session.frontend import TOO_LONG, Attempts
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.statements import Running, resolve
from secretproxy.session.states import State
from secretproxy.session.step import Limits, Output, Step
from secretproxy.session.stream import BackendStream, ClientStream, Sealing
from tests.unit.playbook import FLUSH, OWNER, query

GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"


class Scene:
    """Attempts, and the stream that they hold."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.detector, self.output = Detector(), Output()
        self.state = State(Identity(uuid.uuid4()), self.detector, limits, None)
        self.stream, self.names = ClientStream(limits.max_message, self.output), Names(self.state)
        outcomes = Outcomes(self.state, self.output)
        self.pipeline = Pipeline(self.names, outcomes)
        sealing = Sealing(self.state, BackendStream(self.output), outcomes, self.pipeline)
        self.attempts = Attempts(self.state, self.output, self.stream, self.names, self.pipeline, outcomes, sealing)

    def reports(self, chunk: bytes) -> bytes:
        """Gives the text of a Query that has come in."""
        self.stream.begin(chunk)
        framer = self.stream.framer
        assert framer.next()
        return framer.buffer[framer.start + 5 : framer.end - 1]

    def attempted(self, sql: str) -> Step:
        text, framer = self.reports(query(sql) + FLUSH), self.stream.framer
        verdict = self.attempts.verdict(text)
        assert verdict is not None
        running = Running("simple", verdict, text)
        self.attempts.attempt(running, resolve(verdict.calls, NO_VALUES), NO_VALUES, framer.start, framer.end)
        assert framer.next()
        out = self.stream.finish()
        return out if isinstance(out, Step) else Step()


def test_a_harmless_text_needs_no_parser() -> None:
    assert Scene().attempts.verdict(b"SELECT 1") is HARMLESS


def test_a_long_text_is_parsed_elsewhere_and_read_again() -> None:
    scene = Scene(Limits(parse_thread_bytes=10))
    text = scene.reports(query(GETTER))
    assert scene.attempts.verdict(text) is None
    out = scene.stream.finish()
    assert isinstance(out, Step) and out.parse == (GETTER.encode(), "utf-8", STANDARD) and out.forward == b""
    verdict = scene.detector.analyse(text, "utf-8", STANDARD)
    scene.attempts.supply(text, verdict)
    assert scene.stream.framer.next(), "the message is reported again"
    assert scene.attempts.verdict(text) is verdict


def test_how_strings_are_read_is_in_doubt_while_something_is_under_way() -> None:
    read: list[object] = []
    for setting, due in (("on", 0), ("off", 0), ("off", 1)):
        scene = Scene(Limits(parse_thread_bytes=10))
        scene.state.parameters["standard_conforming_strings"] = setting
        for _ in range(due):
            scene.pipeline.push_statement(b"")
        assert scene.attempts.verdict(scene.reports(query(GETTER + " || '\\'"))) is None
        step = scene.output.take()
        assert step is not None and step.parse is not None
        read.append(step.parse[2])
    assert read == [STANDARD, ESCAPES, EITHER]


def test_an_attempt_waits_with_all_behind_it() -> None:
    out = Scene().attempted(GETTER)
    assert [(event.event, event.secret_names) for event in out.commit] == [("attempt", ("key",))]
    assert out.forward == b"" and [held.data for held in out.held] == [query(GETTER), FLUSH]


def test_the_same_call_twice_is_one_attempt() -> None:
    assert len(Scene().attempted(f"{GETTER} UNION ALL {GETTER}").commit) == 1


def test_an_execute_of_sql_makes_the_calls_of_what_was_prepared() -> None:
    scene = Scene()
    scene.attempted(f"PREPARE p AS {GETTER}")
    assert [event.secret_names for event in scene.attempted("EXECUTE p").commit] == [("key",)]


def test_what_the_log_cannot_take_fails_in_the_backend_and_covers_nothing() -> None:
    scene = Scene()
    out = scene.attempted(GETTER)
    running = out.held[0].running
    assert running is not None and running.covered
    data, events = scene.attempts.refuse(out, taken=False)
    assert (
        data.startswith(b"Q") and b"refuses this secret call" in data and data.endswith(FLUSH) and b"getter" not in data
    )
    assert [(event.event, event.outcome, event.sqlstate, event.secret_names) for event in events] == [
        ("refusal", "refused", "58030", ("key",))
    ]
    assert running.covered == {} and running.refused is not None
    assert scene.attempts.refuse(out, taken=True)[1] == []


def test_a_refusal_takes_the_place_of_its_message() -> None:
    scene = Scene()
    scene.reports(query("SELECT 'long'") + FLUSH)
    scene.attempts.refuse_message(TOO_LONG)
    assert scene.stream.framer.next()
    out = scene.stream.finish()
    assert (
        isinstance(out, Step) and b"long" not in out.forward and out.forward.endswith(FLUSH) and scene.pipeline.due == 1
    )
    assert [(event.event, event.sqlstate) for event in out.record] == [("refusal", "54000")]
