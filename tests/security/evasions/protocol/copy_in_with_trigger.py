"""protocol."""

from tests.support import raw as wire
from tests.support.raw import Raw

MECHANISM = "protocol"
EXPECT = [
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read",
    "function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=beta, operation=read",
]
SETUP = "CREATE TABLE filled (n text)\n\nGRANT ALL ON filled TO PUBLIC\n\nCREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000a', NEW.n); RETURN NEW; END $$\n\nCREATE TRIGGER look BEFORE INSERT ON filled FOR EACH ROW EXECUTE FUNCTION look()"


async def run(raw: Raw) -> None:
    await raw.send(wire.query("COPY filled FROM STDIN"))
    await raw.until(b"GE")
    await raw.send(wire.copy_data("alpha\nbeta\n"), wire.COPY_DONE)
    await raw.ready()
