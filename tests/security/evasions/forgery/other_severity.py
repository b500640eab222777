"""forgeries."""

from tests.support.raw import Raw

MECHANISM = "forgeries"
EXPECT = [
    "nothing",
]
ALSO = ("forgery",)


async def run(raw: Raw) -> None:
    await raw.query("DO $$ BEGIN RAISE NOTICE USING ERRCODE = 'SPX01', MESSAGE = 'SPX1 nonsense'; END $$")
