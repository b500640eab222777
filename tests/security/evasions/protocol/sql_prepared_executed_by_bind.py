"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
]


async def run(raw: Raw) -> None:
    await raw.query(
        "PREPARE s AS SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')"
    )
    await raw.send(wire.bind(name="s"), wire.execute(), wire.SYNC)
    await raw.ready()
