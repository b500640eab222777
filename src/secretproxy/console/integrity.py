"""A verification of the log's chains that a page has begun: it runs beside the pages, as the person who asked, and tells how far it is.

In a thread with an event loop of its own, for it computes; it stops at the next block when the person is signed out. May import asyncpg.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secretproxy.audit.checkpoints import Checkpoint, load_public, public_file, read_file
from secretproxy.audit.review import explained
from secretproxy.audit.verify import Report, verify_database
from secretproxy.config import AuditSettings, ConfigError
from secretproxy.connections import ConnectError, Conninfo

# Verifications at once, of all people together: each takes a core.
MOST_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a log is verified against: checkpoints kept outside, the key that they are signed with."""

    outside: tuple[Checkpoint, ...]
    # Lines of the file of checkpoints that are none.
    unreadable: tuple[int, ...]
    key: Ed25519PublicKey | None
    signed_within: float

    @classmethod
    def of(cls, settings: AuditSettings) -> Evidence:
        """As `audit verify` takes it from the configuration. Raises ConfigError."""
        key_file, file = settings.checkpoint_key_file, settings.checkpoint_file
        public = None if key_file is None else public_file(key_file)
        key = load_public(public) if public is not None and public.exists() else None
        found: list[Checkpoint] = []
        unreadable = []
        for number, checkpoint in read_file(file) if file is not None and file.exists() else ():
            if checkpoint is None:
                unreadable.append(number)
            else:
                found.append(checkpoint)
        return cls(tuple(found), tuple(unreadable), key, settings.checkpoint_seconds)


class _StoppedError(Exception):
    """Nobody waits for the verification any more."""


@dataclass(slots=True, eq=False)
class Check:
    """One verification: how far it is, and its report or why there is none."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
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
            evidence = Evidence.of(settings)
            self.signed = evidence.key is not None
            report = await verify_database(
                conninfo, evidence.outside, evidence.key, progress, signed_within=evidence.signed_within
            )
            for number in evidence.unreadable:
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
        finally:
            self.ended = datetime.now(UTC)


def _in_a_loop(work: Any) -> Report:
    found: Report = asyncio.run(work())
    return found
