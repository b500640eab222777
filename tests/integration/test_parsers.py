"""Checks the processes that parse: what they answer is what the proxy would find itself; they are ended where a text
takes too long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from tests.support.shapes import CALL, SHAPES

from secretproxy.detect import Detector, Verdict
from secretproxy.detect.dependencies import SELECT, Dependencies, Dependency, Named
from secretproxy.detect.detector import Allowance
from secretproxy.detect.string_literals import EITHER, STANDARD
from secretproxy.detect.transfer import pack, unpack
from secretproxy.proxy.parsing.pool import Account, ParserError, Parsers, _Parser
from secretproxy.proxy.parsing.process import ANALYSE, BY_WORDS

T = TypeVar("T")
LONG = "constants"


def with_parsers(work: Callable[[Parsers], Awaitable[T]], slots: int = 1, timeout: float = 30.0) -> T:
    async def run() -> T:
        parsers = Parsers(slots, timeout, 8192)
        try:
            return await work(parsers)
        finally:
            await parsers.close()

    return asyncio.run(run())


def ask(parsers: Parsers, detector: Detector, text: str, strings: int = STANDARD) -> Awaitable[Verdict]:
    return parsers.verdict(detector, text.encode(), "utf-8", strings, Account())


@pytest.mark.parametrize("name", SHAPES)
def test_a_verdict_comes_over_as_it_is(name: str) -> None:
    verdict = Detector().analyse(SHAPES[name](1500).encode(), "utf-8", EITHER)
    assert unpack(pack(verdict)) == verdict


def test_what_a_process_finds_is_what_the_detector_finds() -> None:
    detector = Detector()
    texts = [shape(9000) for shape in list(SHAPES.values())[::5]]

    async def work(parsers: Parsers) -> list[Verdict]:
        return await asyncio.gather(*(ask(parsers, detector, text, EITHER) for text in texts))

    found = with_parsers(work, slots=2)
    assert found == [detector.analyse(text.encode(), "utf-8", EITHER) for text in texts]


def test_a_process_knows_what_the_catalog_says_and_what_it_says_later() -> None:
    lead = Dependency("encrypted_secrets.secrets_getter(uuid,text,text)", SELECT, ("v",))
    leads = [Dependencies(number, relations={f"v{number}": (Named("public", (lead,)),)}) for number in (1, 2)]
    others = [Detector() for _ in range(20)]

    async def work(parsers: Parsers) -> list[int]:
        detector = Detector()
        counts = []
        for known in leads:
            detector.learn(known)
            counts += [
                len((await ask(parsers, detector, f"SELECT * FROM v{number}{',v' * 5000}")).calls) for number in (1, 2)
            ]
            for other in others:
                await ask(parsers, other, SHAPES[LONG](9000))
        # Long enough that the event loop does not look for the names itself.
        for name in ("v2", "v1"):
            counts.append(
                len((await ask(parsers, detector, f"SELECT * FROM {name} WHERE 'a' = '{'a' * 70_000}'")).calls)
            )
        return counts

    assert with_parsers(work) == [1, 0, 0, 1, 1, 0]


def test_a_text_that_takes_too_long_is_judged_by_its_words_and_the_next_is_not() -> None:
    detector = Detector()

    async def work(parsers: Parsers) -> tuple[Verdict, Verdict]:
        await ask(parsers, detector, SHAPES[LONG](9000))
        parsers.timeout = 0.01
        hard = await ask(parsers, detector, SHAPES["wide multiple assignment"](65_536))
        parsers.timeout = 30.0
        return hard, await ask(parsers, detector, SHAPES[LONG](9000))

    hard, after = with_parsers(work)
    assert [(call.name, call.opaque) for call in hard.calls] == [("secrets_getter", True)]
    assert [(call.name, call.opaque) for call in after.calls] == [("secrets_getter", False)]


def test_a_process_that_dies_or_cannot_start_costs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector()

    async def work(parsers: Parsers) -> tuple[Verdict, Verdict]:
        await ask(parsers, detector, SHAPES[LONG](9000))
        for pid in parsers.pids:
            os.kill(pid, 9)
        killed = await ask(parsers, detector, SHAPES[LONG](9000))
        await parsers.close()
        monkeypatch.setattr("sys.executable", "/nowhere")
        return killed, await ask(parsers, detector, SHAPES[LONG](9000))

    for verdict in with_parsers(work):
        assert "secrets_getter" in {call.name for call in verdict.calls}


@pytest.mark.parametrize("failing", [{ANALYSE}, {ANALYSE, BY_WORDS}, None], ids=["words", "needles", "no process"])
def test_a_makeshift_verdict_is_not_kept(failing: set[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process could not say this time is asked for again, and hides nothing from other sessions meanwhile."""
    detector = Detector()
    text = f"EXECUTE p({','.join(['1'] * 300)}); SELECT {CALL}"
    asked = _Parser.ask

    async def fails(
        parser: _Parser, detector: Detector, question: tuple[bytes, str, int, int], timeout: float
    ) -> Verdict:
        if failing is not None and question[3] in failing:
            raise ParserError("TimeoutError")
        return await asked(parser, detector, question, timeout)

    async def work(parsers: Parsers) -> list[Verdict | None]:
        with monkeypatch.context() as patched:
            patched.setattr(_Parser, "ask", fails)
            if failing is None:
                patched.setattr("sys.executable", "/nowhere")
            makeshift = await ask(parsers, detector, text)
        kept = detector.cached(text.encode(), "utf-8")
        found = await ask(parsers, detector, text)
        return [makeshift, kept, found, detector.cached(text.encode(), "utf-8")]

    makeshift, kept, found, again = with_parsers(work)
    assert makeshift is not None and not makeshift.parsed and not makeshift.executes and kept is None
    assert found is not None and found.executes and found == again == detector.analyse(text.encode(), "utf-8")


def test_who_has_had_least_is_next() -> None:
    detector, served = Detector(), []

    async def work(parsers: Parsers) -> None:
        greedy, modest = Account(), Account()
        greedy.seconds = 5.0

        async def one(account: Account, name: str) -> None:
            await parsers.verdict(detector, SHAPES[LONG](9000).encode(), "utf-8", STANDARD, account)
            served.append(name)

        tasks = [asyncio.create_task(one(greedy, "greedy")) for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.gather(*tasks, one(modest, "modest"))

    with_parsers(work)
    assert served.index("modest") <= 1


class Slot:
    """A process that answers when it is told to."""

    def __init__(self, parsers: Parsers) -> None:
        self.parsers = parsers
        self.served: list[str] = []

    async def wait(self, account: Account, name: str, seconds: float) -> None:
        parser = await self.parsers._take(account)
        self.served.append(name)
        self.parsers._charge(account, seconds)
        await asyncio.sleep(0)
        self.parsers._give(parser)


def order(*asking: tuple[Account, str, float]) -> list[str]:
    """Gives who is served in which order where all of these wait for one process at a time."""

    async def work(parsers: Parsers) -> list[str]:
        slot = Slot(parsers)
        await asyncio.gather(*(slot.wait(*one) for one in asking))
        return slot.served

    return with_parsers(work)


def test_a_login_is_served_by_what_all_its_sessions_took() -> None:
    """One login with a hundred sessions has each of them ask once, and takes new ones then."""
    flood = [(Account(f"s{number}", "mallory"), "mallory", 2.0) for number in range(100)]
    alice = Account("a", "alice")
    alice.seconds = 0.5
    assert order(*flood, (alice, "alice", 0.1)).index("alice") == 1


def test_two_logins_take_turns_however_many_sessions_they_have() -> None:
    many = [(Account(f"s{number}", "many"), "many", 1.0) for number in range(20)]
    few = [(Account(f"t{number}", "few"), "few", 1.0) for number in range(3)]
    assert order(*many, *few)[:6].count("few") >= 2


def test_a_session_that_comes_again_under_the_same_login_does_not_overtake_for_ever() -> None:
    """The session has had its time before; each newcomer of its login has had none."""

    async def work(parsers: Parsers) -> int:
        slot = Slot(parsers)
        parser = await parsers._take(Account())
        old = Account("old", "app")
        old.seconds = 0.02
        waits = asyncio.create_task(slot.wait(old, "old", 0.0))
        await asyncio.sleep(0.05)
        newcomers = [asyncio.create_task(slot.wait(Account(f"n{number}", "app"), "new", 0.0)) for number in range(20)]
        await asyncio.sleep(0)
        parsers._give(parser)
        await asyncio.gather(waits, *newcomers)
        return slot.served.index("old")

    assert with_parsers(work) == 0


def test_what_a_login_took_long_ago_counts_less() -> None:
    async def work(parsers: Parsers) -> tuple[float, float]:
        now = asyncio.get_running_loop().time()
        parsers._charge(Account("s", "app"), 8.0)
        for number in range(2000):
            parsers._charge(Account("s", f"login {number}"), 0.001)
        assert len(parsers._logins) <= 1000
        return parsers._lately("app", now), parsers._lately("app", now + 30)

    at_once, later = with_parsers(work)
    assert at_once > 7 and 0.9 < later < 1.1


def test_short_texts_wait_for_their_turn_in_order() -> None:
    turns: list[str] = []

    async def work(parsers: Parsers) -> None:
        loop = asyncio.get_running_loop()
        detector = Detector(allowance=Allowance(loop.call_soon))
        text = f"SELECT {CALL}{' ,1' * 60}"
        while detector.may_analyse_now(text.encode()):
            pass

        async def one(name: str) -> None:
            await ask(parsers, detector, text)
            turns.append(name)

        await asyncio.gather(*(one(name) for name in "abcd"))
        assert detector.may_analyse_now(b"SELECT 1")

    with_parsers(work)
    assert turns == list("abcd")


def test_a_process_shows_what_the_template_of_a_text_does() -> None:
    """Two texts are parsed: the second one's template as well. The third has its verdict from that."""
    detector = Detector()
    texts = [SHAPES["in list of numbers"](3000).replace("'n'", f"'name {number}'") for number in range(4)]

    async def work(parsers: Parsers) -> list[Verdict | None]:
        known: list[Verdict | None] = []
        for text in texts:
            known.append(detector.cached(text.encode(), "utf-8"))
            if known[-1] is None:
                await ask(parsers, detector, text)
        return known

    found = with_parsers(work)
    assert found[:2] == [None, None]
    assert found[2:] == [detector.analyse(text.encode(), "utf-8") for text in texts[2:]]
    assert [verdict and verdict.calls[0].resolve().names for verdict in found[2:]] == [("name 2",), ("name 3",)]
