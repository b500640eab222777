"""the greeting's own statement."""

from tests.support.raw import Raw

MECHANISM = "the proxy's own statements"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
]
PARAMETERS = {"options": "-c search_path=work,pg_catalog"}
SETUP = """
CREATE FUNCTION work.pg_backend_pid() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;

CREATE FUNCTION work.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'x'::text $$;

CREATE FUNCTION work.extract(text, timestamptz) RETURNS numeric LANGUAGE sql AS $$ SELECT 1::numeric $$;

CREATE FUNCTION work.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'x'::text $$;

CREATE FUNCTION work.pg_stat_get_activity(int) RETURNS TABLE (backend_start timestamptz) LANGUAGE sql AS $$ SELECT '2000-01-01'::timestamptz $$;
"""


async def run(raw: Raw) -> None:
    await raw.query(
        "DO $$ BEGIN EXECUTE 'select pg_catalog.set_config(''x.y'', encrypted_' || 'secrets.secrets_' || 'getter(''00000000-0000-4000-8000-00000000000a'', ''alpha''), false)'; END $$"
    )
    await raw.query("SHOW x.y")
