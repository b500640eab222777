"""Records what a command takes out of the log: an event `review`, as the console writes one for each page.

Recorded is what leaves a file or signs the log off, with its filter and nothing else. A command that prints is not: its
login may read the log with psql as well. The event is written by the login of audit.dsn, which a reviewer need not
have; where it cannot be written, the command says so and why."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from secretproxy.audit import review
from secretproxy.audit.filters import EQUAL
from secretproxy.audit.recorder import Recorder, UnrecordedError
from secretproxy.config import ConfigError, Settings
from secretproxy.console.recording import recorder_of
from secretproxy.ops import logs
from secretproxy.session.events import Identity

APPLICATION = "secretproxy audit"
_SIGNED = "SELECT EXISTS (SELECT FROM ONLY secretproxy.checkpoints)"
_SEEN = (
    f"SELECT EXISTS (SELECT FROM secretproxy.access_log a WHERE a.session_id {EQUAL} $1"  # noqa: S608 - constant text
    f" AND a.event {EQUAL} 'review')"
)


class NotRecordedError(Exception):
    """The log does not have what a command does; the text says why and what rules it."""


class Reading(NamedTuple):
    """A command's review: what records it, and in whose name."""

    recorder: Recorder
    who: Identity


@contextlib.asynccontextmanager
async def reading(connection: Any, settings: Settings) -> AsyncIterator[Reading]:
    """Gives what records a review of the log that `connection` reads, in the name of its login.

    When the block ends, the chain of the event is complete and signed. Raises NotRecordedError.
    """
    audit = settings.audit
    if audit.dsn is None:
        raise NotRecordedError("audit.dsn of the configuration (--config) names no login that may write it")
    if audit.checkpoint_key_file is not None and not audit.checkpoint_key_file.exists():
        # A key of one's own would sign for nobody.
        audit = audit.model_copy(update={"checkpoint_key_file": None, "checkpoint_file": None})
    if audit.checkpoint_key_file is None and await connection.fetchval(_SIGNED):
        raise NotRecordedError(
            "its chains are signed, and the key for that is not here (audit.checkpoint_key_file): `audit verify` would "
            "take an unsigned one for made up"
        )
    where = await review.place(connection)
    who = Identity(uuid.uuid4(), where.user, where.database, APPLICATION)
    # Of the journal's own log only what went wrong, and not among the answer.
    logs.configure(settings.log.model_copy(update={"level": "error"}), sys.stderr)
    recorder = recorder_of(settings.model_copy(update={"audit": audit}))
    await recorder.start()
    try:
        yield Reading(recorder, who)
    except UnrecordedError as error:
        raise NotRecordedError(f"it cannot be written: {error.reason} (audit.dsn)") from None
    finally:
        await recorder.close()
    if not await connection.fetchval(_SEEN, who.session_id):
        raise NotRecordedError("audit.dsn leads to another log than the one that you read, or this one lags behind it")


async def record(connection: Any, settings: Settings, asked: str, given: Mapping[str, object]) -> None:
    """Records a command before it reads, with what was `given`; says on standard error where that cannot be."""
    filters = [(name, str(value)) for name, value in given.items() if value is not None]
    try:
        async with reading(connection, settings) as found:
            await found.recorder.record(found.who, 1, asked, filters)
    except (NotRecordedError, ConfigError) as error:
        print(f"not recorded in the log that you read it: {error}", file=sys.stderr)
