"""counts."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "counts of the protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read, calls=2",
]


async def run(raw: Raw) -> None:
    # As many parameters, which the backend lets a statement have and not use.
    for count in (32768, 65535):
        text = "SELECT encrypted_secrets.secrets_getter($1, $2)"
        types = [2950, 25] + [23] * (count - 2)
        values = ["00000000-0000-4000-8000-00000000000a", "alpha"] + ["1"] * (count - 2)
        body = b"\0\0" + count.to_bytes(2, "big") + b"\0\0" * count + count.to_bytes(2, "big")
        body += b"".join(len(value).to_bytes(4, "big") + value.encode() for value in values) + b"\0\0"
        parsed = (
            b"\0" + text.encode() + b"\0" + count.to_bytes(2, "big") + b"".join(oid.to_bytes(4, "big") for oid in types)
        )
        await raw.send(wire.message(b"P", parsed), wire.message(b"B", body), wire.execute(), wire.SYNC)
        await raw.ready()
