"""COPY FROM with a condition."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "COPY"
_GETTER = "encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', 'alpha')"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read"
]
SETUP = "CREATE TABLE filled (n text)\n\nGRANT ALL ON filled TO PUBLIC"


async def run(raw: Raw) -> None:
    await raw.send(wire.query(f"COPY filled FROM STDIN WHERE {_GETTER} IS NOT NULL"))
    await raw.until(b"GE")
    await raw.send(wire.copy_data("one\n"), wire.COPY_DONE)
    await raw.ready()
