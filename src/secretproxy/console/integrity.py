"""Runs a verification of the log's chains that a page has begun: in the background, as the person who asked, with
progress.

In a thread with an event loop of its own, for it computes; it stops at the next block when the person is signed out.
May import asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from secretproxy.audit.checkpoints import kept_outside, public_key_of
from secretproxy.audit.evidence import Verification
from secretproxy.audit.review import explained
from secretproxy.audit.verify import Report, verify_database
from secretproxy.config import AuditSettings, ConfigError
from secretproxy.connections import ConnectError, Conninfo

log: Any = structlog.get_logger("secretproxy.console")

# Verifications at once, of all people together: each takes a core.
MOST_AT_ONCE = 2


class _StoppedError(Exception):
    """Nobody waits for the verification any more."""


@dataclass(slots=True, eq=False)
class Check:
    """One verification: how far it is, and its report or why there is none."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    # Set once it has ended.
    over: asyncio.Event = field(default_factory=asyncio.Event)
    rows: int = 0
    estimate: int | None = None
    report: Report | None = None
    signed: bool = False
    problem: str = ""

    @property
    def running(self) -> bool:
        return self.ended is None

    async def run(self, conninfo: Conninfo, settings: AuditSettings, stopped: Callable[[], bool]) -> None:
        """Verifies; keeps report or problem."""

        def progress(done: int, total: int | None) -> None:
            if stopped():
                raise _StoppedError
            self.rows, self.estimate = done, total

        async def work() -> Report:
            # What `audit verify` takes from the configuration.
            key = public_key_of(None, settings.checkpoint_key_file)
            outside, unreadable = kept_outside(None, settings.checkpoint_file)
            self.signed = key is not None
            report = await verify_database(conninfo, outside, key, progress, signed_within=settings.checkpoint_seconds)
            for number in unreadable:
                report.add("-", None, "checkpoint", f"line {number} of {settings.checkpoint_file} is not a checkpoint")
            return report

        try:
            self.report = await asyncio.to_thread(_in_a_loop, work)
        except _StoppedError:
            self.problem = "stopped"
        except ConfigError as error:
            self.problem = str(error)
        except ConnectError as error:
            self.problem = str(explained(error))
        except Exception as error:
            # Its text could quote a row.
            log.error("a verification failed", kind=type(error).__name__)
            self.problem = "it failed; the console's own log says how"
        finally:
            self.ended = datetime.now(UTC)
            self.over.set()

    async def verification(self, read_as: str) -> Verification:
        """Waits for the end, and gives what came of it."""
        await self.over.wait()
        return Verification(self.began, self.ended, read_as, self.signed, self.report, self.problem)


def _in_a_loop(work: Any) -> Report:
    found: Report = asyncio.run(work())
    return found
