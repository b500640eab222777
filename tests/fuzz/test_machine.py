"""Runs the session under hypothesis: any client, any backend's answers, any order of moves."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.fuzz.harness import LEADING, SAYINGS, Harness
from tests.fuzz.pure import INSTALLED, PURE

# Without FUZZ_SECONDS the examples are always the same; `make fuzz` looks for new ones.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "15"))
# As many as a quiet core does in a fifth of the time.
EXAMPLES = int(SECONDS * 6)
FUZZ = settings(
    max_examples=EXAMPLES,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    derandomize="FUZZ_SECONDS" not in os.environ,
)
PIECES = st.one_of(st.sampled_from(LEADING), st.sampled_from(LEADING), st.sampled_from(SAYINGS))
SIZES = st.sampled_from([1, 3, 20, 100, 10_000])


class Machine(RuleBasedStateMachine):
    """One session; every move is checked by the harness."""

    @initialize()
    def begin(self) -> None:
        self.harness = Harness(INSTALLED)

    @rule()
    def waits(self) -> None:
        self.harness.drain()

    @rule()
    def takes_long(self) -> None:
        self.harness.take_long()

    @rule(piece=PIECES)
    def says(self, piece: bytes) -> None:
        self.harness.say(piece)

    @rule(pieces=st.lists(PIECES, max_size=6))
    def says_much(self, pieces: list[bytes]) -> None:
        self.harness.say(b"".join(pieces))
        self.harness.send(10_000)

    @rule(size=SIZES)
    def client_arrives(self, size: int) -> None:
        self.harness.send(size)

    @rule(size=SIZES)
    def backend_runs(self, size: int) -> None:
        self.harness.run(size)

    @rule(size=SIZES)
    def backend_arrives(self, size: int) -> None:
        self.harness.deliver(size)

    @rule(which=st.integers(0, 1))
    def log_takes(self, which: int) -> None:
        self.harness.log(which)

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            self.harness.finish()


def test_any_order_of_moves() -> None:
    run_state_machine_as_test(Machine, settings=FUZZ)


@settings(FUZZ, max_examples=EXAMPLES)
@given(st.lists(PIECES, max_size=25), st.lists(st.tuples(st.integers(0, 3), SIZES), max_size=80))
def test_chunks_and_delays_change_nothing(sayings: list[bytes], moves: list[tuple[int, int]]) -> None:
    """A client that waits for every answer, and one that sends all at once, in pieces, with everything late, leave the
    same log."""
    patient, hasty = Harness(INSTALLED), Harness(INSTALLED)
    for piece in sayings:
        hasty.say(piece)
    for move, size in moves:
        (hasty.send, hasty.run, hasty.deliver, hasty.log)[move](size)
    for piece in sayings:
        patient.say(piece)
        patient.drain()
    for harness in (hasty, patient):
        harness.finish()
    assert hasty.log_lines == patient.log_lines
    assert hasty.received == patient.received


@pytest.mark.skipif(not INSTALLED.compiled(), reason="the hot path is not compiled here: there are no two to compare")
@settings(FUZZ, max_examples=EXAMPLES)
@given(st.binary(max_size=300))
def test_compiled_and_pure_decide_the_same(moves: bytes) -> None:
    assert not PURE.compiled()
    compiled, pure = Harness(INSTALLED), Harness(PURE)
    for start in range(0, len(moves) - 2, 3):
        for harness in (compiled, pure):
            harness.play(moves[start : start + 3])
        assert (compiled.forwarded, compiled.received) == (pure.forwarded, pure.received)
        assert repr(compiled.events) == repr(pure.events)
    for harness in (compiled, pure):
        harness.finish()
    assert compiled.log_lines == pure.log_lines
