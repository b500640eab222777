"""the greeting's own statement."""

from tests.support.raw import Raw

MECHANISM = "the proxy's own statements"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
]
PARAMETERS = {"options": "-c search_path=work,pg_catalog"}
SETUP = """
CREATE DOMAIN work.numeric AS pg_catalog.numeric CHECK (false);

CREATE DOMAIN work.int8 AS pg_catalog.int8 CHECK (false);

CREATE DOMAIN work.text AS pg_catalog.text;

CREATE VIEW work.pg_proc AS SELECT 1 AS x;

CREATE VIEW work.pg_namespace AS SELECT 1 AS x;
"""


async def run(raw: Raw) -> None:
    await raw.query(
        "DO $$ BEGIN EXECUTE 'select set_config(''x.y'', encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''), false)'; END $$"
    )
    await raw.query("SHOW x.y")
