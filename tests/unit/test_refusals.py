"""Logins to a session's database that the server refuses, each with a FATAL in its log: the catalog's reader and the
proof of the key make few of them, whatever the session defines."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from secretproxy.config import Settings
from secretproxy.connections import ConnectError, login_refused
from secretproxy.proxy.catalog import proof, watcher
from secretproxy.proxy.catalog.proof import Proofs
from secretproxy.proxy.catalog.refusal import LONGEST, Refusals
from secretproxy.proxy.catalog.watcher import Catalogs
from secretproxy.session.testimony import Keys

REFUSED = ["55000", "53300", "42501", "28000", "28P01"]


def refusal(sqlstate: str) -> ConnectError:
    return ConnectError("refused", asyncpg.PostgresError.new({"C": sqlstate, "M": "refused"}))


class OneSession:
    """What readers ask of a session."""

    identity = SimpleNamespace(database="app")
    physical = False

    def use(self, detector: object) -> None: ...

    def expect_silence(self, names: object) -> None: ...


@pytest.mark.parametrize("sqlstate", REFUSED)
def test_each_refusal_doubles_the_pause(sqlstate: str) -> None:
    refusals, pauses = Refusals(30.0), []
    for _ in range(12):
        assert sqlstate in (refusals.add(refusal(sqlstate)) or "")
        pauses.append(refusals.pause)
    assert pauses == [60.0, 120.0, 240.0, 480.0, *[LONGEST] * 8]
    refusals.clear()
    assert refusals.pause == 0.0


@pytest.mark.parametrize("error", [refusal("57P03"), refusal("3D000"), ConnectionRefusedError(), TimeoutError()])
def test_what_is_no_refusal_has_no_pause(error: Exception) -> None:
    refusals = Refusals(30.0)
    assert refusals.add(error) is None and refusals.pause == 0.0


def test_an_interval_longer_than_the_longest_pause_stays() -> None:
    refusals = Refusals(3600.0)
    refusals.add(refusal("42501"))
    assert refusals.pause == 3600.0


def test_too_many_connections_pass_by_themselves() -> None:
    assert [state for state in REFUSED if not login_refused(refusal(state))] == ["53300"]


@pytest.mark.parametrize("sqlstate", REFUSED)
@pytest.mark.parametrize("refresh", [0.0, 30.0], ids=["proofs", "catalogs"])
async def test_what_a_session_defines_makes_no_further_login(
    monkeypatch: pytest.MonkeyPatch, refresh: float, sqlstate: str
) -> None:
    """With catalog_refresh = 0 the proof of the key asks by itself."""
    monkeypatch.setattr(proof, "GAP", 0.0)
    monkeypatch.setattr(watcher, "GAP", 0.0)
    tasks: set[asyncio.Task[None]] = set()
    logins = 0

    async def connect(database: str) -> Any:
        nonlocal logins
        logins += database == "app"
        raise refusal(sqlstate)

    def spawn(work: Any) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        return task

    settings = Settings.model_validate(
        {"monitor": {"catalog_refresh": refresh}, "audit": {"dsn": "postgresql://journal@db.invalid/log"}}
    )
    proofs = Proofs(settings, Keys({1: b"k" * 32}), connect, spawn)
    catalogs = Catalogs(
        settings, lambda: SimpleNamespace(monitored=None), connect, spawn, None, lambda seconds: None, proofs.bring  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    one: Any = OneSession()
    catalogs.join(one)
    proofs.join(one)
    for _ in range(100):
        catalogs.changed(one)
        proofs.changed(one)
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert logins == 1
