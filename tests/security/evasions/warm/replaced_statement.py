"""A prepared read that the proxy knows well is replaced by other statements of its name, where no text shows it."""

from tests.support import raw as wire
from tests.support.raw import Raw

OWNER = "00000000-0000-4000-8000-00000000000a"
GETTER = "encrypted_secrets.secrets_getter"
MECHANISM = "warm"
EXPECT = [
    *(
        f"function={GETTER}(uuid,text,text), owner={OWNER}, names={name}, operation=read, calls={calls}"
        for name, calls in (("alpha", 5), ("beta", 2), ("gamma", 1))
    ),
    f"function=encrypted_secrets.secrets_verify(uuid,text,text), owner={OWNER}, names=alpha, operation=verify",
]
SETUP = """
CREATE TABLE written (value text);
CREATE FUNCTION replace(definition text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN EXECUTE 'DEALLOCATE r'; EXECUTE 'PREPARE r(uuid, text) AS ' || definition; END $$;
GRANT INSERT ON written TO PUBLIC
"""
# What stands in the place of the read.
OTHERS = [
    f"SELECT {GETTER}($1, ''beta'' || substr($2, 1, 0))",
    f"SELECT {GETTER}($1, $2), {GETTER}($1, ''gamma'')",
    "SELECT encrypted_secrets.secrets_verify($1, $2, ''x'')",
    f"INSERT INTO written SELECT {GETTER}($1, $2)",
    f"SELECT {GETTER}($1, ''beta''), $2",
]


async def run(raw: Raw) -> None:
    read = wire.bind([OWNER, "alpha"], name="r") + wire.execute() + wire.SYNC
    await raw.send(wire.parse(f"SELECT {GETTER}($1, $2)", "r", [2950, 25]), wire.SYNC)
    await raw.ready()
    for _ in range(3):
        await raw.send(read)
        await raw.ready()
    for other in OTHERS:
        await raw.query(f"DO $$ BEGIN PERFORM replace('{other}'); END $$")
        await raw.send(read)
        await raw.ready()
