"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read",
]


async def run(raw: Raw) -> None:
    await raw.send(wire.parse("SELECT encrypted_secrets.secrets_getter($1, $2)", "s"), wire.SYNC)
    await raw.ready()
    for name in ("alpha", "beta"):
        await raw.send(
            wire.bind(["00000000-0000-4000-8000-00000000000a", name], portal="p" + name, name="s"),
            wire.execute("p" + name),
            wire.SYNC,
        )
        await raw.ready()
