"""A number of one worker on the board of metrics.py. On the hot path, and compiled for that."""

from __future__ import annotations


class Value:
    """One worker's number."""

    __slots__ = ("_place", "_row")

    def __init__(self, row: memoryview[float], place: int) -> None:
        self._row = row
        self._place = place

    def inc(self, by: float = 1) -> None:
        self._row[self._place] += by

    def set(self, value: float) -> None:
        self._row[self._place] = float(value)
