"""A prepared read is given its owner and its name in every form that may pass for another one."""

import uuid

from tests.support import raw as wire
from tests.support.raw import Raw

OWNER = "00000000-0000-4000-8000-00000000000a"
GETTER = "encrypted_secrets.secrets_getter"
MECHANISM = "warm"
BYTES, DIGITS = uuid.UUID(OWNER).bytes, OWNER.replace("-", "")
# What is given, and its formats.
GIVEN = [
    ([OWNER, "alpha"], ()),
    ([OWNER.upper(), "alpha"], ()),
    ([f"{{{OWNER}}}", "alpha"], ()),
    ([DIGITS, "alpha"], ()),
    (["-".join(DIGITS[at : at + 4] for at in range(0, 32, 4)), "alpha"], ()),
    ([BYTES, "alpha"], (1, 0)),
    ([BYTES, "alpha"], (1,)),
    ([OWNER, "alpha"], (0, 1)),
    ([f" {OWNER}", "alpha"], ()),
    ([f"{OWNER}\n", "alpha"], ()),
    ([f"urn:uuid:{OWNER}", "alpha"], ()),
    ([f"{{{DIGITS}", "alpha"], ()),
    (["0x" + DIGITS[2:], "alpha"], ()),
    ([DIGITS[:8] + "_" + DIGITS[9:], "alpha"], ()),
    ([OWNER, "alpha"], (1, 0)),
    ([BYTES, "alpha"], ()),
    ([BYTES, "alpha"], (2, 0)),
    ([BYTES + b"\0", "alpha"], (1, 0)),
    ([OWNER + "\0", "alpha"], ()),
    ([OWNER, "alpha\0"], ()),
    ([OWNER, b"alpha\0"], (0, 1)),
    ([OWNER, b"\xc0\xaf"], ()),
    ([OWNER, b"\xed\xa0\x80"], ()),
    ([OWNER, None], ()),
    ([None, "alpha"], ()),
    ([OWNER], ()),
    ([OWNER, "alpha", "x"], ()),
    ([OWNER, "alpha"], (0, 0, 0)),
]
# What else is a name.
NAMES = ["it's", "back\\slash", "''", "E'x'", " ", "", "grün", "\U0001f511", "a b' 'c"]
LONG = ["n" * 1024, "n" * 1025]
EXPECT = [
    *(
        f"function={GETTER}(uuid,text,text), owner={owner}, names={name}, operation=read, calls=+"
        for owner, name in [(OWNER, name) for name in ["alpha", "~", *NAMES]] + [("-", "alpha")]
    ),
    # These are masked, and one is cut by its type.
    *[f"function={GETTER}(uuid,text,text), owner={OWNER}, names=*, operation=read, calls=+"] * 3,
]


async def run(raw: Raw) -> None:
    named = [([OWNER, other], ()) for other in NAMES + LONG]
    for name, types, given in (
        ("r", (2950, 25), GIVEN + named),
        ("u", (), GIVEN[:10]),
        ("t", (25, 25), GIVEN[5:10]),
        ("n", (2950, 19), named),
    ):
        first, second = "$1::uuid" if name == "t" else "$1", "$2::text" if name == "n" else "$2"
        await raw.send(wire.parse(f"SELECT {GETTER}({first}, {second})", name, types), wire.SYNC)
        await raw.ready()
        for values, formats in given:
            bound = wire.bind(values, name=name, formats=formats, results=(1,) if name == "u" else ())
            await raw.send(bound, wire.execute(), wire.SYNC)
            await raw.ready()
