"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_delete(uuid,text), owner=00000000-0000-4000-8000-00000000000a, names=gone, operation=delete",
]


async def run(raw: Raw) -> None:
    oid = int(await raw.value("SELECT 'encrypted_secrets.secrets_delete(uuid,text)'::regprocedure::oid"))
    await raw.query("BEGIN")
    await raw.send(wire.function_call(oid, ["00000000-0000-4000-8000-00000000000a", "gone"]))
    await raw.ready()
    await raw.query("ROLLBACK")
