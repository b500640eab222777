"""Texts with the template of one that the proxy knows, whose constants look like anything but constants."""

from tests.support.raw import Raw

OWNER = "00000000-0000-4000-8000-00000000000a"
OTHER = "00000000-0000-4000-8000-00000000000c"
GETTER = "encrypted_secrets.secrets_getter"
MECHANISM = "warm"
NAMES = ["x''y", "--", "*/ ''a''", ";", "E''", "grün", "a\tb", "{alpha}", "\x01", "\x02", "%s"]
# `{}`: a name, `{owner}`: an owner.
TEXTS = [
    f"SELECT {GETTER}('{{owner}}', '{{}}')",
    f"SELECT * FROM {GETTER}('{{owner}}'::uuid, '{{}}'::text) AS v",
    f"SELECT {GETTER}(secret_name => '{{}}', secrets_owned_field => '{{owner}}'), 5, '{{}}' LIMIT 1",
    f"SELECT {GETTER}('{{owner}}', '{{}}') WHERE 'a' IN ('a', '{{}}') AND 1 IN (1, 2, 3)",
    "SELECT encrypted_secrets.secrets_delete('{owner}', ARRAY['{}', 'none'])",
    f"SELECT id, CASE WHEN id = 2 THEN {GETTER}(owner, '{{}}') END FROM owners WHERE id < 3 ORDER BY 1",
]
EXPECT = [
    f"function=encrypted_secrets.{function}, owner={owner}, names={name}{rest}, calls=+"
    for owner in (OWNER, OTHER)
    for name in ["alpha", *(name.replace("''", "'") for name in NAMES)]
    for function, rest in (
        ("secrets_getter(uuid,text,text)", ", operation=read"),
        ("secrets_delete(uuid,text[])", "|none, operation=delete"),
    )
]


async def run(raw: Raw) -> None:
    for text in TEXTS:
        for owner in (OWNER, OTHER):
            for name in ["alpha", "alpha", *NAMES]:
                await raw.query(text.replace("{owner}", owner).replace("{}", name))
