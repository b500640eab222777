"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "nothing",
]
SETUP = "CREATE TABLE filled (n text)\n\nGRANT ALL ON filled TO PUBLIC\n\nCREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', NEW.n); RETURN NEW; END $$\n\nCREATE CONSTRAINT TRIGGER look AFTER INSERT ON filled DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()"


async def run(raw: Raw) -> None:
    await raw.send(wire.query("COPY filled FROM STDIN"))
    await raw.until(b"GE")
    await raw.send(wire.copy_data("alpha\n"), wire.copy_fail())
    await raw.ready()
