"""What waits for rows: told in order, each once, and after an outage only what an outage does not end."""

from __future__ import annotations

import random

from secretproxy.audit.waiting import Settled, Waiting


def named(name: int, told: list[int]) -> Settled:
    return lambda fault: told.append(name)


def tell(settled: list[Settled]) -> None:
    for one in settled:
        one(None)


def test_what_waits_is_taken_up_to_a_number_in_order() -> None:
    waiting, told = Waiting(), []
    for name, number in enumerate([0, 0, 1, 3, 3, 7]):
        waiting.add(number, named(name, told), through_outages=name % 2 == 0)
    for number, expected in ((0, [0, 1]), (0, []), (2, [2]), (6, [3, 4]), (7, [5])):
        assert not waiting.is_empty
        told.clear()
        tell(waiting.take(number))
        assert told == expected
    assert waiting.is_empty and not waiting.take(100)


def test_an_outage_ends_the_waits_of_what_did_not_happen_yet() -> None:
    """As a list of tuples would have it, for any order of both kinds."""
    draw = random.Random(1)
    for _ in range(200):
        waiting, told = Waiting(), []
        model: list[tuple[int, int, bool]] = []
        number = 0
        for name in range(draw.randrange(12)):
            number += draw.randrange(3)
            stays = draw.random() < 0.5
            waiting.add(number, named(name, told), through_outages=stays)
            model.append((number, name, stays))
            if draw.random() < 0.2:
                upto = draw.randrange(number + 1)
                told.clear()
                tell(waiting.take(upto))
                assert told == [name for last, name, _ in model if last <= upto]
                model = [entry for entry in model if entry[0] > upto]
            if draw.random() < 0.2:
                told.clear()
                tell(waiting.take_ended())
                assert told == [name for _, name, stays in model if not stays]
                model = [entry for entry in model if entry[2]]
        assert waiting.is_empty == (not model)
        told.clear()
        tell(waiting.take(number))
        assert told == [name for _, name, _ in model]
