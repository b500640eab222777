"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read",
]
SETUP = "CREATE FUNCTION shown(n text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', n); END $$"


async def run(raw: Raw) -> None:
    await raw.query("BEGIN")
    await raw.send(
        wire.parse("SELECT shown(name) FROM owners ORDER BY id"), wire.bind(portal="p"), wire.execute("p", 2), wire.SYNC
    )
    await raw.ready()
    await raw.query("SELECT 1")
    await raw.send(wire.execute("p", 0), wire.SYNC)
    await raw.ready()
    await raw.query("COMMIT")
