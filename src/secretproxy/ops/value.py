"""The numbers of one worker on the board of metrics.py. On the hot path, and compiled for that."""

from __future__ import annotations

from collections.abc import Sequence


class Value:
    """One worker's number, which nobody else writes."""

    __slots__ = ("_number", "_place", "_row")

    def __init__(self, row: memoryview[float], place: int) -> None:
        self._row = row
        self._place = place
        self._number: float = row[place]

    def inc(self, by: float = 1) -> None:
        self.set(self._number + by)

    def count(self, things: int) -> None:
        """Adds so many, which the board has once they are written: for what is counted in each call."""
        self._number += things

    def write(self) -> None:
        """Writes what was counted."""
        self._row[self._place] = self._number

    def set(self, value: float) -> None:
        # Compiled, a number of the board costs more to read than to write.
        self._number = float(value)
        self._row[self._place] = self._number


class Durations:
    """One worker's histogram: how many durations ended at each of the bounds, and the sum of all."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, row: memoryview[float], place: int, bounds: Sequence[float]) -> None:
        """Takes the upper bounds of the buckets, in seconds. Of the row it has a number for each of them, one for what
        takes longer, and the sum."""
        self._bounds: list[float] = list(bounds)
        self._counts: list[Value] = [Value(row, place + bucket) for bucket in range(len(bounds) + 1)]
        self._sum = Value(row, place + len(bounds) + 1)

    def observe(self, seconds: float) -> None:
        bucket = 0
        for bound in self._bounds:
            if seconds <= bound:
                break
            bucket += 1
        self._counts[bucket].inc()
        self._sum.inc(seconds)
