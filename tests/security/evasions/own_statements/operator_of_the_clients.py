"""the greeting's own statement."""

from tests.support.raw import Raw

MECHANISM = "the proxy's own statements"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
]
PARAMETERS = {"options": "-c search_path=work,pg_catalog"}
SETUP = """
CREATE FUNCTION work.spoiled_0(a numeric, b int) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT 1::numeric $$;

CREATE OPERATOR work.* (LEFTARG = numeric, RIGHTARG = int, FUNCTION = work.spoiled_0);
"""


async def run(raw: Raw) -> None:
    await raw.query(
        "DO $$ BEGIN EXECUTE 'select set_config(''x.y'', encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''), false)'; END $$"
    )
    await raw.query("SHOW x.y")
