"""counts: the backend refuses such a Bind, and the attempt stands."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "counts of the protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), operation=read, calls=0",
]


async def run(raw: Raw) -> None:
    bound = b"\0\0\0\2\0\0\0\x24" + b"00000000-0000-4000-8000-00000000000a" + b"\x7f\xff\xff\xff" + b"alpha" + b"\0\0"
    parsed = wire.parse("SELECT encrypted_secrets.secrets_getter($1, $2)", types=[2950, 25])
    await raw.send(parsed, wire.message(b"B", b"\0\0" + bound), wire.execute(), wire.SYNC)
    found = await raw.ready()
    assert [message.kind for message in found] == [b"1", b"E", b"Z"]
