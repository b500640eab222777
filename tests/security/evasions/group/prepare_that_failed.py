"""A PREPARE that fails in the backend, executed with an array of megabytes; then a read that only testimony shows, its
value put elsewhere."""

from __future__ import annotations

from tests.support.raw import Raw, query

OWNER = "00000000-0000-4000-8000-00000000000a"
MECHANISM = "a group of rows that the log does not take"
EXPECT = [f"function=encrypted_secrets.secrets_getter(uuid,text,text), owner={OWNER}, names=behind-it, operation=read"]
ALSO = ["attempt"]


async def run(raw: Raw) -> None:
    calls = ", ".join(["encrypted_secrets.secrets_delete($1, $2)"] * 60)
    await raw.send(query(f"PREPARE p (uuid, text[]) AS SELECT {calls}, no_such_function($1)"))
    await raw.ready()
    names = ",".join(f"n{number:06}" for number in range(250_000))
    await raw.send(query(f"EXECUTE p ('{OWNER}', '{{{names}}}')"))
    await raw.ready()
    getter = f"encrypted_secrets.secrets_getter(''{OWNER}'', ''behind-it'', ''x'')"
    await raw.send(
        query(f"DO $$ BEGIN EXECUTE 'SELECT set_config(''application_name'', ' || '{getter}' || ', false)'; END $$")
    )
    await raw.ready()
