"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
]


async def run(raw: Raw) -> None:
    import uuid

    oid = int(await raw.value("SELECT 'encrypted_secrets.secrets_getter'::regproc::oid"))
    await raw.send(
        wire.function_call(oid, [uuid.UUID("00000000-0000-4000-8000-00000000000a").bytes, b"alpha", None], [1, 1, 1])
    )
    await raw.ready()
