"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=gamma, operation=read",
]


async def run(raw: Raw) -> None:
    await raw.query("BEGIN")
    await raw.send(
        wire.parse(
            "SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', name) FROM (VALUES ('alpha'), ('beta'), ('gamma')) v (name)"
        ),
        wire.bind(portal="p"),
        wire.execute("p", 1),
        wire.SYNC,
    )
    await raw.ready()
    for _ in range(3):
        await raw.send(wire.execute("p", 1), wire.SYNC)
        await raw.ready()
    await raw.query("COMMIT")
