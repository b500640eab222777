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

CREATE FUNCTION work.spoiled_1(a numeric, b numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT 1::numeric $$;

CREATE OPERATOR work.* (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = work.spoiled_1);

CREATE FUNCTION work.spoiled_2(a oid, b oid) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT false $$;

CREATE OPERATOR work.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = work.spoiled_2);

CREATE FUNCTION work.spoiled_3(a name, b name) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT false $$;

CREATE OPERATOR work.= (LEFTARG = name, RIGHTARG = name, FUNCTION = work.spoiled_3);

CREATE FUNCTION work.spoiled_4(a name, b text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT false $$;

CREATE OPERATOR work.= (LEFTARG = name, RIGHTARG = text, FUNCTION = work.spoiled_4);
"""


async def run(raw: Raw) -> None:
    await raw.query(
        "DO $$ BEGIN EXECUTE 'select set_config(''x.y'', encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''), false)'; END $$"
    )
    await raw.query("SHOW x.y")
