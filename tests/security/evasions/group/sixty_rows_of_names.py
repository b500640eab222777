"""Sixty deletes of five hundred names each in one statement, then a read that the text does not show: no row is left
out for their size."""

from __future__ import annotations

from tests.support.raw import SYNC, Raw, bind, execute, parse, query

OWNER = "00000000-0000-4000-8000-00000000000a"
NAMES = [f"not-there-{number:04}" for number in range(500)]
MECHANISM = "a group of rows that the log does not take"
EXPECT = [
    f"function=encrypted_secrets.secrets_delete(uuid,text[]), owner={OWNER}, names={'|'.join(NAMES)}, operation=delete, calls=60",
    f"function=encrypted_secrets.secrets_getter(uuid,text,text), owner={OWNER}, names=behind-it, operation=read",
]


async def run(raw: Raw) -> None:
    calls = ", ".join(["encrypted_secrets.secrets_delete($1, $2)"] * 60)
    await raw.send(
        parse(f"SELECT {calls}", types=(2950, 1009)), bind([OWNER, "{" + ",".join(NAMES) + "}"]), execute(), SYNC
    )
    await raw.ready()
    await raw.send(
        query(
            f"DO $$ BEGIN EXECUTE 'SELECT encrypted_secrets.secrets_' || 'getter(''{OWNER}'', ''behind-it'')'; END $$"
        )
    )
    await raw.ready()
