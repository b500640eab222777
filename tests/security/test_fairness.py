"""Checks that no client's text delays another session's `select 1`: measured while others send every shape of text,
against the same idle.

What delays it is the proxy's event loop, and on a busy machine also the backends that the others keep busy: bounds are
wide enough for these and far below what a text costs that is looked into on the event loop. `benchmarks/stalls.py`
shows the figures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.conftest import Backend
from tests.support.proxy import Proxy
from tests.support.raw import Address, Raw
from tests.support.shapes import CALL, SHAPES
from tests.support.stall import Latencies, attacked, idle

# Milliseconds beyond the idle session's: of half of the victim's queries, of 95 in a hundred, of all.
MEDIAN, P95, WORST = 20.0, 60.0, 1000.0


@pytest.fixture(scope="module")
def address(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    proxy = Proxy(
        tmp_path_factory.mktemp("fairness"), postgres.address, postgres.dsn("journal"), postgres.key_file
    ).start()
    proxy.wait_for_text("access log can be written")
    yield Address("127.0.0.1", proxy.port, "app")
    proxy.stop()


@pytest.fixture(scope="module")
def reference(address: Address) -> Latencies:
    return asyncio.run(idle(address, 1.0))


def check(found: Latencies, reference: Latencies, sent: int) -> None:
    assert sent > 0
    assert found.median - reference.median < MEDIAN, (found, reference)
    assert found.p95 - reference.p95 < P95, (found, reference)
    assert found.worst - reference.worst < WORST, (found, reference)


def check_the_proxy(address: Address, texts: list[str], pipelined: int, attackers: int = 16) -> None:
    """Sixteen attackers' backends fill the machine: the proxy alone is asked, and its event loop's delay is what
    shows."""
    reference = asyncio.run(idle(address, 1.0, "proxy"))
    found, sent = asyncio.run(attacked(address, texts, 2.0, attackers=attackers, pipelined=pipelined, asking="proxy"))
    check(found, reference, sent)


@pytest.mark.parametrize(
    ("name", "size", "before"),
    [
        ("record variables", 62_000, ""),
        ("record variables", 157_000, ""),
        ("open dollar tags", 65_536, "SET standard_conforming_strings = off"),
        ("open dollar tags of their own", 65_536, "SET standard_conforming_strings = off"),
        ("in list of numbers", 65_536, ""),
        ("in list of strings", 65_536, ""),
        ("variables with values", 65_536, ""),
        ("wide multiple assignment", 65_536, ""),
        ("exact calls", 65_536, ""),
        ("constants", 600_000, ""),
    ],
)
def test_one_shape(name: str, size: int, before: str, address: Address, reference: Latencies) -> None:
    found, sent = asyncio.run(attacked(address, [SHAPES[name](size)], 1.0, before=before))
    check(found, reference, sent)


@pytest.mark.parametrize("size", [1024, 8192, 65536])
def test_every_shape(size: int, address: Address, reference: Latencies) -> None:
    found, sent = asyncio.run(attacked(address, [shape(size) for shape in SHAPES.values()], 4.0))
    check(found, reference, sent)


def test_many_attackers_with_many_texts_at_a_time(address: Address) -> None:
    texts = [SHAPES[name](8000) for name in ("in list of numbers", "columns", "exact calls", "performs")]
    check_the_proxy(address, texts, 8)


def test_many_short_texts_at_a_time(address: Address) -> None:
    texts = [SHAPES[name](400) for name in ("in list of numbers", "columns", "exact calls", "performs")]
    check_the_proxy(address, texts, 50)


def test_a_short_secret_call_does_not_wait_behind_others_texts(address: Address) -> None:
    """The victim's own call is short, and others fill every process that parses."""

    async def run() -> float:
        tasks = asyncio.create_task(attacked(address, [SHAPES["columns"](65_536)], 3.0, attackers=8))
        await asyncio.sleep(1.0)
        raw = await Raw.connect(address)
        clock, taken = asyncio.get_running_loop().time, []
        for number in range(20):
            began = clock()
            answer = await raw.query(rf"SELECT {CALL} --\{number}")
            taken.append(clock() - began)
            assert not any(message.kind == b"E" and message.sqlstate.startswith("58") for message in answer)
        await raw.terminate()
        await tasks
        return sorted(taken)[10]

    assert asyncio.run(run()) < 0.5


def test_very_many_statements_at_a_time_that_need_no_look(address: Address) -> None:
    """There is one attacker: so many of them are a load, which more workers share."""
    check_the_proxy(address, ["SELECT 1", ""], 4000, attackers=1)
