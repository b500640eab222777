"""Runs a journal in a process of its own that is there to be killed: it logs one name after the other and says which
are durable."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.journal import Journal, LogUnavailableError
from secretproxy.audit.masking import NameMask
from secretproxy.session.events import Event, Identity


def work(dsn: str, directory: str, names: str, acknowledged: int) -> None:
    """Writes `<names>-<n>` for n = 0, 1, ... and each durable name into the pipe `acknowledged`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    asyncio.run(_work(dsn, Path(directory), names, acknowledged))


async def _work(dsn: str, directory: Path, names: str, acknowledged: int) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(dsn)

    signer = Signer(directory / "sign.key", directory / "checkpoints.jsonl")
    journal = Journal(
        connect,
        NameMask(200, (), b"k" * 32),
        timeout=2.0,
        signer=signer,
        checkpoint_every=5,
        checkpoint_seconds=0.05,
        spool_dir=directory / "spool",
    )
    await journal.start()
    who = Identity(uuid.uuid4(), "app_user", "crash")

    async def one(number: int) -> None:
        event = Event(
            "call",
            who,
            number,
            "encrypted_secrets.secrets_getter(uuid,text,text)",
            "read",
            secret_names=(f"{names}-{number}",),
        )
        try:
            future = journal.append([event], wait=True)
            if future is not None:
                await future
                os.write(acknowledged, f"{names}-{number}\n".encode())
        except LogUnavailableError:
            await asyncio.sleep(0.001)

    number = 0
    while True:
        await asyncio.gather(*(one(number + more) for more in range(3)))
        number += 3
