"""protocol."""

from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read",
]


async def run(raw: Raw) -> None:
    other = await raw.another()
    await other.query("SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')")
    await other.terminate()
    await raw.query("SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'beta')")
