"""What waits for rows of the log. Pure, and on the hot path: two lists, no object a wait."""

from __future__ import annotations

from collections.abc import Callable

# Is called, once a wait, when the rows are durable, or when an outage ended the wait: then with its cause. Must not
# raise.
Settled = Callable[[str | None], object]


class Waiting:
    """What is to be called, in the order of the rows that it waits for. That is the order in which it is added."""

    __slots__ = ("_numbers", "_settled")

    def __init__(self) -> None:
        # The number of the last row that each waits for; its complement where an outage does not end the wait.
        self._numbers: list[int] = []
        self._settled: list[Settled] = []

    def __repr__(self) -> str:
        return f"Waiting({len(self._settled)})"

    @property
    def is_empty(self) -> bool:
        return len(self._settled) == 0

    def add(self, number: int, settled: Settled, *, through_outages: bool) -> None:
        """Adds what waits for the rows up to this number."""
        self._numbers.append(~number if through_outages else number)
        self._settled.append(settled)

    def take(self, number: int) -> list[Settled]:
        """Takes away what waits for rows up to this number."""
        numbers, count = self._numbers, 0
        while count < len(numbers):
            last = numbers[count]
            if (~last if last < 0 else last) > number:
                break
            count += 1
        settled = self._settled
        # Compiled, a slice costs half of what it takes to delete one.
        self._numbers, self._settled = numbers[count:], settled[count:]
        return settled[:count]

    def take_ended(self) -> list[Settled]:
        """Takes away what an outage ends the wait of."""
        numbers, settled = self._numbers, self._settled
        self._numbers, self._settled = [], []
        ended: list[Settled] = []
        for number, one in zip(numbers, settled, strict=True):
            if number < 0:
                self._numbers.append(number)
                self._settled.append(one)
            else:
                ended.append(one)
        return ended
