"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
]


async def run(raw: Raw) -> None:
    import uuid

    await raw.send(
        wire.parse("SELECT encrypted_secrets.secrets_getter($1, $2)", types=[2950, 25]),
        wire.bind([uuid.UUID("00000000-0000-4000-8000-00000000000a").bytes, b"alpha"], formats=[1, 1]),
        wire.execute(),
        wire.SYNC,
    )
    await raw.ready()
