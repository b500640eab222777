"""Parses texts that would hold up the event loop, in other processes and in an order in which no session's texts delay
another's.

A long or laborious text goes to a process of its own, which is ended where it takes longer than limits.parse_timeout:
the text is judged by its words then. A thread would not do: the parser cannot be ended in it, and what is made of the
parser's answer keeps the event loop from running. The login that has taken the least time lately is next, however many
sessions it has, and of those the one that has taken least or waited longest. Never lets a text into a log or an
exception."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from secretproxy.detect import Detector, Verdict
from secretproxy.detect.detector import LIGHT, Allowance, weight
from secretproxy.detect.string_literals import STANDARD
from secretproxy.detect.transfer import unpack
from secretproxy.proxy.parsing.process import ANALYSE, BY_WORDS, HEADER, OF_MARKED, READY

log: Any = structlog.get_logger("secretproxy")

# Seconds that a process may take to start.
_START_TIMEOUT = 20.0
# Databases whose detectors a process knows at once.
_MOST_DETECTORS = 16
# Seconds after which a login's time counts half. Logins whose time is kept.
_HALF = 10.0
_MOST_LOGINS = 1000
# Of an answer.
_MOST_ANSWER = 64 * 1024 * 1024


class ParserError(Exception):
    """The process gave no verdict: it took too long, ended, or could not be started."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Account:
    """The seconds that a session's texts have taken in processes, and the login that it is of."""

    __slots__ = ("login", "seconds", "session")

    def __init__(self, session: str | None = None, login: str = "") -> None:
        self.seconds = 0.0
        self.session = session
        self.login = login


class Parsers:
    """The processes of one proxy process. They are started when they are needed."""

    def __init__(self, slots: int, timeout: float, longest: int) -> None:
        """longest: the bytes of the longest text that may be analysed on the event loop."""
        self.timeout = timeout
        self._longest = longest
        self._all = [_Parser() for _ in range(slots)]
        self._idle = list(self._all)
        # Who waits, and since when.
        self._waiting: list[tuple[Account, asyncio.Future[_Parser], float]] = []
        # Seconds that the texts of all sessions of a login took lately, and when that was so.
        self._logins: dict[str, tuple[float, float]] = {}
        self._turn = asyncio.Lock()

    async def verdict(
        self, detector: Detector, text: bytes, encoding: str, conforming_strings: int, account: Account
    ) -> Verdict:
        """Gives the verdict on a text that the session could not have at once. The detector keeps it, but for one that
        is makeshift: the next time a process may be quicker."""
        if len(text) <= self._longest and weight(text) <= LIGHT:
            await self._wait_for_turn(detector.allowance, weight(text))
            return detector.store(text, encoding, detector.look(text, encoding, conforming_strings), conforming_strings)
        monitored = detector.monitored
        parser = await self._take(account)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            for way in (ANALYSE, BY_WORDS):
                try:
                    verdict = await parser.ask(detector, (text, encoding, conforming_strings, way), self.timeout)
                except ParserError as error:
                    about = {} if account.session is None else {"session": account.session}
                    log.warning(
                        "a text is judged by its words, as parsing it took too long or too much memory",
                        kind=error.kind, setting="limits.parse_timeout", **about,
                    )  # fmt: skip
                else:
                    await self._learn(parser, detector, text, encoding, verdict)
                    if way == ANALYSE and detector.monitored is monitored:
                        detector.store(text, encoding, verdict, conforming_strings)
                    return verdict
            return detector.by_needles(text)
        finally:
            self._charge(account, clock() - began)
            self._give(parser)

    async def _learn(self, parser: _Parser, detector: Detector, text: bytes, encoding: str, verdict: Verdict) -> None:
        """Has the template of a text analysed, where it has come before."""
        marked, monitored = detector.marked(text, encoding), detector.monitored
        if marked is None:
            return
        try:
            found = await parser.ask(detector, (marked, encoding, STANDARD, OF_MARKED), self.timeout)
        except ParserError:
            return
        if detector.monitored is monitored:
            detector.learn_template(text, encoding, verdict, found if found.parsed else None)

    def _charge(self, account: Account, seconds: float) -> None:
        account.seconds += seconds
        now = asyncio.get_running_loop().time()
        if len(self._logins) >= _MOST_LOGINS and account.login not in self._logins:
            # Those that have long taken nothing go first.
            kept = sorted(self._logins, key=lambda login: self._lately(login, now))[_MOST_LOGINS // 2 :]
            self._logins = {login: self._logins[login] for login in kept}
        self._logins[account.login] = self._lately(account.login, now) + seconds, now

    def _lately(self, login: str, now: float) -> float:
        """Gives the seconds that a login's texts took, older ones for less."""
        seconds, at = self._logins.get(login, (0.0, now))
        return float(seconds * 0.5 ** ((now - at) / _HALF))

    async def _wait_for_turn(self, allowance: Allowance, work: int) -> None:
        """There were too many short texts in one turn of the event loop: these go on in a later one, in the order they
        came in."""
        allowance.queue += 1
        try:
            async with self._turn:
                while not allowance.take(work, queued=True):  # noqa: ASYNC110 (a turn of the loop is what is waited for)
                    await asyncio.sleep(0)
        finally:
            allowance.queue -= 1

    async def _take(self, account: Account) -> _Parser:
        if self._idle:
            return self._idle.pop()
        future: asyncio.Future[_Parser] = asyncio.get_running_loop().create_future()
        self._waiting.append((account, future, asyncio.get_running_loop().time()))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give(future.result())
            raise

    def _give(self, parser: _Parser) -> None:
        self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]
        if not self._waiting:
            self._idle.append(parser)
            return
        now = asyncio.get_running_loop().time()
        lately = {login: self._lately(login, now) for login in {account.login for account, _, _ in self._waiting}}

        def rank(place: int) -> tuple[float, float]:
            # Within a login, a session that has just come does not overtake one that waits, over and over.
            account, _, since = self._waiting[place]
            return lately[account.login], account.seconds - (now - since)

        self._waiting.pop(min(range(len(self._waiting)), key=rank))[1].set_result(parser)

    @property
    def pids(self) -> list[int]:
        return [parser.pid for parser in self._all if parser.pid is not None]

    async def close(self) -> None:
        """Ends the processes and waits for their end."""
        for parser in self._all:
            await parser.close()


class _Parser:
    """One process, started again where it has ended."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._ending: list[asyncio.subprocess.Process] = []
        # What it has been told of each detector, the oldest first.
        self._knows: dict[int, object] = {}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def ask(self, detector: Detector, question: tuple[bytes, str, int, int], timeout: float) -> Verdict:
        """Asks the process for its verdict. Raises ParserError."""
        try:
            process = self._process or await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            async with asyncio.timeout(timeout):
                for request in (*self._teaching(detector), ("judge", detector.number, *question)):
                    data = pickle.dumps(request, pickle.HIGHEST_PROTOCOL)
                    process.stdin.write(HEADER.pack(len(data), False) + data)
                await process.stdin.drain()
                answer, last = await self._answer(process.stdout)
            if last:
                self.kill()
            return unpack(answer)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.kill()
            raise ParserError(type(error).__name__) from None
        except BaseException:
            # In the middle of an answer nobody waits for any more.
            self.kill()
            raise

    def _teaching(self, detector: Detector) -> list[tuple[Any, ...]]:
        """Gives what the process must be told first."""
        monitored = detector.monitored
        if self._knows.get(detector.number) is monitored:
            return []
        leads = monitored.dependencies
        known = (leads.version, leads.functions, leads.relations, leads.operators, leads.types, leads.events)
        tables = tuple(".".join(table) for table in monitored.tables)
        requests: list[tuple[Any, ...]] = [("learn", detector.number, monitored.schemas, tables, known)]
        self._knows.pop(detector.number, None)
        self._knows[detector.number] = monitored
        if len(self._knows) > _MOST_DETECTORS:
            oldest = next(iter(self._knows))
            del self._knows[oldest]
            requests.append(("forget", oldest))
        return requests

    async def _start(self) -> asyncio.subprocess.Process:
        self._knows = {}
        # Its own session: what a terminal says to the proxy is not for it.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "secretproxy.proxy.parsing.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(os.environ),
            start_new_session=True,
            limit=2**20,
        )
        self._process = process
        assert process.stdout is not None
        async with asyncio.timeout(_START_TIMEOUT):
            answer, _ = await self._answer(process.stdout)
        if answer != READY:
            raise ValueError
        return process

    async def _answer(self, stream: asyncio.StreamReader) -> tuple[bytes, bool]:
        size, last = HEADER.unpack(await stream.readexactly(HEADER.size))
        if size > _MOST_ANSWER:
            raise ValueError
        return await stream.readexactly(size), last

    def kill(self) -> None:
        process, self._process = self._process, None
        self._ending = [ending for ending in self._ending if ending.returncode is None]
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            self._ending.append(process)

    async def close(self) -> None:
        self.kill()
        for process in self._ending:
            await process.wait()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Gives the variables that Python itself needs: no setting of the proxy, no password."""
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
    return {name: environment[name] for name in kept if name in environment}
