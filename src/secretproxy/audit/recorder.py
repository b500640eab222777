"""Records who read the log: an event `review` for each page of the console, in a chain of this process's own.

The reviewer's login reads the log and cannot write it. So the process writes, as a proxy does: as a member of
secretproxy_writer that the configuration names, under the name that signed in. What cannot be recorded is not shown:
whoever calls `record` waits for it, and shows nothing if it fails. May import asyncpg through the journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.journal import Journal, LogUnavailableError
from secretproxy.audit.masking import NameMask
from secretproxy.config import Settings
from secretproxy.session.events import Event, Identity


class UnrecordedError(Exception):
    """A review could not be recorded, so it does not take place; the text says why and what rules it.

    `reason`: why the log cannot be written.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"What you ask for cannot be recorded now, so nothing is shown. The log cannot be written: {reason} "
            "(audit.dsn)."
        )
        self.reason = reason


class Recorder:
    """The journal of a process that reviews."""

    def __init__(self, settings: Settings, connect: Callable[[], Awaitable[Any]], mask_key: bytes) -> None:
        """Takes `connect`, which gives a connection that may write the log.

        Raises ConfigError if the checkpoint key cannot be used.
        """
        audit = settings.audit
        key_file = audit.checkpoint_key_file
        self.mask = NameMask(settings.limits.max_name, settings.monitor.name_patterns, mask_key)
        self._journal = Journal(
            connect,
            self.mask,
            timeout=audit.timeout,
            signer=None if key_file is None else Signer(key_file, audit.checkpoint_file, audit.checkpoint_command),
            checkpoint_every=audit.checkpoint_every,
            checkpoint_seconds=audit.checkpoint_seconds,
            in_outage="nothing is shown to anybody",
        )

    async def start(self) -> None:
        """Returns when the log has been tried, whatever came of it."""
        await self._journal.start()

    def sign(self) -> None:
        """Has a checkpoint made of what is recorded by now, where there is a key."""
        self._journal.sign_soon()

    async def close(self) -> None:
        """Writes what is left, and signs the chain's end."""
        await self._journal.close()

    async def record(
        self, who: Identity, number: int, asked: str, filters: Sequence[tuple[str, str]], fingerprint: str | None = None
    ) -> None:
        """Returns when the log has it. Raises UnrecordedError.

        `number`: of the page in its session. `filters`: names, which are ours, with values, which are the reviewer's
        and masked as the names of secrets are."""
        event = Event(
            "review",
            who,
            statement_no=number,
            function=asked,
            via=tuple(text for pair in filters for text in pair) or None,
            fingerprint=fingerprint,
        )
        # A log that nobody has tried yet is not down. It is tried for the log's timeout at most.
        await self._journal.tried()
        try:
            waiting = self._journal.append([event], wait=True)
            assert waiting is not None
            await waiting
        except LogUnavailableError as error:
            raise UnrecordedError(str(error)) from None
