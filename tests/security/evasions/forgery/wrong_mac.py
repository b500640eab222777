"""forgeries."""

from tests.support.raw import Raw

MECHANISM = "forgeries"
EXPECT = [
    "nothing",
]
ALSO = ("forgery",)


async def run(raw: Raw) -> None:
    signed = "SPX1 1 1 1 0000000000000001 encrypted_secrets.secrets_getter(uuid,text,text) 00000000-0000-4000-8000-00000000000a 616c706861 - 61 - - p -"
    await raw.query(f"DO $$ BEGIN RAISE INFO USING ERRCODE = 'SPX01', MESSAGE = '{signed} {'0' * 64}'; END $$")
