"""Measures what a text costs detection: the time a byte is bounded, whatever the text says, and grows with its length
alone.

Each shape in a process of its own, so that one that never ends is a failure and not a test that hangs. Times are the
process's CPU time, against that of a plain long list measured in the same run."""

from __future__ import annotations

import os
import signal
import time

import pytest

from secretproxy.detect import Detector
from secretproxy.detect.detector import fingerprint
from secretproxy.detect.string_literals import EITHER
from tests.support.shapes import SHAPES

SIZES = (1024, 8192, 65536)
# A list of names: constants that are no strings are cut out of the tree before it is walked.
REFERENCE = "columns"
# Of the reference's time a byte; and of eight times the text's length, what its time may grow by.
MOST_A_BYTE, MOST_GROWTH = 6.0, 8 * 3
# Below this a measurement says more of the machine than of the text.
LEAST = 0.004
SECONDS = 20


def cost(name: str) -> list[float]:
    """Gives the best CPU time of each size, in seconds; of no more sizes where the process did not end in time."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            _measure(name, sending)
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as answers:
        times = [float(line) for line in answers]
    os.waitpid(pid, 0)
    return times


def _measure(name: str, sending: int) -> None:
    for size in SIZES:
        text = SHAPES[name](size).encode()
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            Detector().analyse(text, "utf-8", EITHER)
            fingerprint(text.decode())
            best = min(best, time.process_time() - began)
        os.write(sending, f"{best}\n".encode())


@pytest.fixture(scope="module")
def reference() -> float:
    """Gives seconds a byte of the plain long list."""
    return cost(REFERENCE)[-1] / SIZES[-1]


@pytest.mark.parametrize("name", SHAPES)
def test_a_text_costs_what_its_length_allows(name: str, reference: float) -> None:
    times = cost(name)
    assert len(times) == len(SIZES), f"{name}: no verdict on {SIZES[len(times)]} bytes within {SECONDS} s"
    for size, taken in zip(SIZES, times, strict=True):
        assert taken < LEAST + size * reference * MOST_A_BYTE, f"{name}: {taken * 1000:.1f} ms for {size} bytes"
    assert times[2] < max(LEAST, times[1]) * MOST_GROWTH, f"{name}: {[round(each * 1000, 1) for each in times]} ms"


def test_sizes_are_what_they_say() -> None:
    for name, shape in SHAPES.items():
        for size in SIZES:
            assert size * 0.5 < len(shape(size).encode()) < size * 2.1, (name, size)
