"""The owner of a prepared read has a type of the client's: a cast or a CHECK that does more, and may give another."""

import struct

from tests.support import raw as wire
from tests.support.raw import Raw

OWNER = "00000000-0000-4000-8000-00000000000a"
OTHER = "00000000-0000-4000-8000-00000000000c"
GETTER = "encrypted_secrets.secrets_getter"
MECHANISM = "warm"
EXPECT = [
    f"function={GETTER}(uuid,text,text), owner={OWNER}, names=alpha, operation=read, calls=35",
    f"function={GETTER}(uuid,text,text), owner={OWNER}, names=beta, operation=read, calls=4",
    f"function={GETTER}(uuid,text,text), owner={OTHER}, names=alpha, operation=read",
    f"function=encrypted_secrets.secrets_delete(uuid,text), owner={OWNER}, names=gamma, operation=delete, calls=2",
]
ALSO = ["forgery"]
SETUP = f"""
CREATE TYPE mine AS ENUM ('{OWNER}');
CREATE TABLE todo AS SELECT text 'SELECT 1' AS what;
CREATE TABLE later (id int);
GRANT ALL ON todo, later TO PUBLIC;
CREATE FUNCTION owner_of(given mine) RETURNS uuid LANGUAGE plpgsql AS $f$
DECLARE v_todo text := (SELECT what FROM work.todo);
BEGIN EXECUTE v_todo; RETURN CASE v_todo WHEN 'SELECT 0' THEN '{OTHER}' ELSE given::text END::uuid; END $f$;
CREATE CAST (mine AS uuid) WITH FUNCTION owner_of(mine) AS IMPLICIT;
CREATE DOMAIN checked AS uuid CHECK (owner_of(VALUE::text::mine) IS NOT NULL);
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN PERFORM {GETTER}('{OWNER}', 'beta'); RETURN NULL; END $f$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION at_commit()
"""
# What runs when the owner is read.
DOES = [
    "SELECT 1",
    "SELECT 1",
    "SELECT 0",
    f"SELECT {GETTER}(''{OWNER}'', ''beta'')",
    f"SELECT {GETTER}(''{OWNER}'', ''alpha'')",
    f"SELECT encrypted_secrets.secrets_delete(''{OWNER}'', ''gamma'')",
    "INSERT INTO work.later VALUES (1)",
    "DO $$ BEGIN RAISE INFO SQLSTATE ''SPX01'' USING MESSAGE = ''5350583220''; END $$",
    "DO $$ BEGIN RAISE NOTICE ''hello''; END $$",
    "SELECT pg_notify(''c'', ''p'')",
    "SELECT set_config(''TimeZone'', ''Asia/Tokyo'', false)",
    "SELECT set_config(''client_encoding'', ''LATIN1'', false)",
    "SELECT set_config(''client_encoding'', ''UTF8'', false)",
    "SELECT set_config(''application_name'', ''another'', false)",
    "SELECT set_config(''role'', ''battery_other'', true)",
    "SELECT set_config(''jwt.claims.user_id'', ''00000000-0000-4000-8000-00000000000d'', false)",
    "SELECT set_config(''standard_conforming_strings'', ''off'', false)",
]


async def run(raw: Raw) -> None:
    await raw.query("LISTEN c")
    for name in ("mine", "checked"):
        await raw.send(wire.parse(f"SELECT $1::work.{name}", "d"), wire.describe("d", b"S"), wire.SYNC)
        described = next(found for found in await raw.ready() if found.kind == b"t")
        (oid,) = struct.unpack("!I", described.body[2:])
        await raw.send(wire.close("d", b"S"), wire.parse(f"SELECT {GETTER}($1, $2)", name, [oid, 25]), wire.SYNC)
        await raw.ready()
        for does in DOES:
            await raw.query(f"UPDATE work.todo SET what = '{does}'")
            await raw.send(wire.bind([OWNER, "alpha"], name=name), wire.execute(), wire.SYNC)
            await raw.ready()
        await raw.query("RESET standard_conforming_strings; RESET jwt.claims.user_id; RESET TimeZone")
