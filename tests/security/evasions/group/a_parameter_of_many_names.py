"""Sixty deletes that do not run share a parameter of 250,000 names, 120 MB in rows if each keeps them; then a read by
dynamic SQL."""

from __future__ import annotations

from tests.support.raw import SYNC, Raw, bind, execute, parse, query

OWNER = "00000000-0000-4000-8000-00000000000a"
MECHANISM = "a group of rows that the log does not take"
EXPECT = [f"function=encrypted_secrets.secrets_getter(uuid,text,text), owner={OWNER}, names=behind-it, operation=read"]
ALSO = ["attempt"]


async def run(raw: Raw) -> None:
    calls = ", ".join(["encrypted_secrets.secrets_delete($1, $2)"] * 60)
    names = ",".join(f"n{number:06}" for number in range(250_000))
    await raw.send(
        parse(f"SELECT 1 / 0, {calls}", types=(2950, 1009)), bind([OWNER, "{" + names + "}"]), execute(), SYNC
    )
    await raw.ready()
    await raw.send(
        query(
            f"DO $$ BEGIN EXECUTE 'SELECT encrypted_secrets.secrets_' || 'getter(''{OWNER}'', ''behind-it'')'; END $$"
        )
    )
    await raw.ready()
