"""Checks what a function tells of itself in a session that is known to be proxied, read by the proxy's own reader."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from tests.integration.sql.conftest import Database

from secretproxy.install.keyfile import load_key_file
from secretproxy.session import testimony

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a41")
USER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a42")
GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"
VERIFY = "encrypted_secrets.secrets_verify(uuid,text,text)"
NAMES = [
    "key", "", " ", "'", "''", "\\", "\\\\'", "E'", "E'\\'", "NULL", "a b c", "' '", "' 'x' '", "-", "~", "_", "=", ",", "\n\t\r\x01", "%1$s %L",
    "ключ", "🔑", "\u2028", "x" * 2600, "repeated " * 20_000,
]  # fmt: skip
ROLE = "odd 'role\\ ключ"


class Session:
    """A login that has a proxied session's token, and what its calls tell."""

    def __init__(self, database: Database, user: str = "app_user", *, token: bool = True) -> None:
        self.keys = testimony.Keys(load_key_file(database.backend.key_file))
        self.sql = psycopg.connect(database.dsn(), user=user, autocommit=True)
        self.messages: list[str] = []
        self.sql.add_notice_handler(
            lambda diagnostic: self.messages.append(str(diagnostic.constraint_name or diagnostic.message_primary))
        )
        if token:
            self.proxied()

    def proxied(self) -> None:
        (start,) = self.ask("SELECT secretproxy.backend_start()")
        self.sql.execute(
            "SELECT set_config('secretproxy.session', %s, false)",
            (self.keys.token(self.sql.info.backend_pid, int(start)),),
        )

    def ask(self, statement: str, *arguments: object) -> tuple[Any, ...]:
        found = self.sql.execute(statement, arguments).fetchone()
        assert found is not None
        return found

    def get(self, name: str) -> testimony.Testimony:
        """Gives the testimony of one call, which gives the secret's name as its value."""
        self.messages.clear()
        assert self.ask(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', %s)", name) == (name,)
        (message,) = self.messages
        said = self.keys.read(message.encode())
        assert said is not None
        return said

    @property
    def form(self) -> str:
        """Gives the form of the last call's testimony."""
        return "SPX1" if self.messages[0].startswith("SPX1 ") else bytes.fromhex(self.messages[0])[:4].decode()


@pytest.fixture(scope="module")
def stored(installed: Database) -> Iterator[Database]:
    with installed.connect() as admin:
        for name in NAMES:
            admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, %s)", (OWNER, name, name))
        role = psycopg.sql.Identifier(ROLE)
        admin.execute(psycopg.sql.SQL("CREATE ROLE {0} LOGIN IN ROLE authenticated").format(role))
        admin.execute(psycopg.sql.SQL("GRANT {0} TO app_user").format(role))
        yield installed
        admin.execute(psycopg.sql.SQL("DROP ROLE {0}").format(role))


@pytest.mark.parametrize(
    "setting", ["standard_conforming_strings = on", "standard_conforming_strings = off", "DateStyle = 'SQL, DMY'"]
)
def test_every_name_is_told_as_it_is(stored: Database, setting: str) -> None:
    session = Session(stored)
    session.sql.execute(f"SET {setting}; SET backslash_quote = on; SET TimeZone = 'Asia/Kathmandu'")
    before = int.from_bytes(session.ask("SELECT timestamptz_send(clock_timestamp())")[0])
    for name in NAMES:
        said = session.get(name)
        assert session.form == "SPX2"
        assert (said.function, said.owner, said.names, said.encoding, said.proxied) == (
            GETTER,
            OWNER,
            (name,),
            None,
            True,
        )
        assert (said.session_user, said.role, said.jwt_user) == ("app_user", None, None)
        assert (said.pid, said.start) == (
            session.sql.info.backend_pid,
            session.ask("SELECT secretproxy.backend_start()")[0],
        )
        assert said.clock > before
        before = said.clock


def test_a_verify_of_a_sealed_value_is_told_as_a_read_is(stored: Database) -> None:
    session = Session(stored)
    for name in NAMES:
        for value in (name, None) if name == NAMES[0] else (name,):
            session.messages.clear()
            asked = session.ask("SELECT encrypted_secrets.secrets_verify(%s, %s, %s)", OWNER, name, value)
            (message,) = session.messages
            said = session.keys.read(message.encode())
            assert said is not None and session.form == "SPX2" and said.proxied
            assert (said.function, said.owner, said.names, said.encoding) == (VERIFY, OWNER, (name,), None)
            assert asked == (value is not None,)
    assert session.ask("SELECT encrypted_secrets.secrets_verify(%s, %s, 'another')", OWNER, NAMES[0]) == (False,)


def test_a_client_encoding_that_lacks_the_characters(stored: Database) -> None:
    session = Session(stored)
    session.sql.execute("SET client_encoding = 'LATIN1'")
    session.messages.clear()
    session.sql.execute(f"SELECT length(encrypted_secrets.secrets_getter('{OWNER}', U&'\\043a\\043b\\044e\\0447'))")
    said = session.keys.read(session.messages[0].encode())
    assert said is not None and said.names == ("ключ",)


def test_users_and_roles_of_any_name(stored: Database) -> None:
    session = Session(stored)
    session.sql.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(ROLE)))
    session.sql.execute(f"SET jwt.claims.user_id = '{USER}'")
    said = session.get("key")
    assert session.form == "SPX2" and (said.session_user, said.role, said.jwt_user) == ("app_user", ROLE, USER)
    session.sql.execute("SET jwt.claims.user_id = 'not a uuid'' p'")
    assert session.get("key").jwt_user is None
    other = Session(stored, ROLE)
    assert other.get("key").session_user == ROLE and other.form == "SPX2"


@pytest.mark.parametrize("claim", ["jwt.claims.user_id", "request.jwt.claims"])
def test_claims_come_and_go_within_a_session(stored: Database, claim: str) -> None:
    """Whether there are any is asked first; one of a transaction leaves an empty setting behind."""
    value = str(USER) if claim == "jwt.claims.user_id" else f'{{"sub": "{USER}"}}'
    session = Session(stored)

    def users() -> set[uuid.UUID | None]:
        said = {session.get("key").jwt_user}
        assert session.form == "SPX2"
        session.messages.clear()
        session.sql.execute(f"SELECT encrypted_secrets.secrets_verify('{OWNER}', 'key', 'key')")
        heard = session.keys.read(session.messages[0].encode())
        assert heard is not None and session.form == "SPX2"
        return said | {heard.jwt_user}

    with stored.connect() as admin:
        admin.execute("UPDATE secretproxy.settings SET jwt_source = 'request.jwt.claims'")
        try:
            assert users() == {None}
            with session.sql.transaction():
                session.sql.execute("SELECT set_config(%s, %s, true)", (claim, value))
                assert users() == {USER}
            assert session.ask(f"SELECT current_setting('{claim}')") == ("",)
            assert users() == {None}
            session.sql.execute("SELECT set_config(%s, %s, false)", (claim, value))
            assert users() == {USER}
            session.sql.execute("RESET ALL")
            session.proxied()
            assert users() == {None}
        finally:
            admin.execute("UPDATE secretproxy.settings SET jwt_source = DEFAULT")


def test_no_altered_message_is_believed(stored: Database) -> None:
    session = Session(stored)
    session.get("a b c")
    message = session.messages[0]
    for place, character in enumerate(message):
        other = random.choice([digit for digit in "0123456789abcdef" if digit != character])
        assert session.keys.read((message[:place] + other + message[place + 1 :]).encode()) is None
        assert session.keys.read(message[:place].encode()) is None
        assert session.keys.read((message[:place] + message[place + 1 :]).encode()) is None
    assert session.keys.read(message.encode()) is not None


def direct(database: Database) -> int:
    with database.connect() as admin:
        found = admin.execute("SELECT count(*) FROM secretproxy.access_log WHERE event = 'direct'").fetchone()
    assert found is not None
    return int(found[0])


def again(session: Session) -> None:
    for _ in range(8):  # more than the five times that PostgreSQL plans anew
        assert session.get("key").proxied


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_plans_made_before_the_session_was_proxied(stored: Database, mode: str) -> None:
    session = Session(stored, token=False)
    session.sql.execute(f"SET plan_cache_mode = {mode}")
    before = direct(stored)
    for _ in range(8):
        assert not session.get("key").proxied
    assert direct(stored) == before + 8
    session.proxied()
    again(session)
    assert direct(stored) == before + 8


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize(
    "forgets",
    [
        "DISCARD PLANS",
        "DISCARD SEQUENCES",
        "DISCARD ALL",
        "RESET secretproxy.session",
        "SET secretproxy.session = ''; DISCARD PLANS",
    ],
)
def test_what_a_session_throws_away_makes_no_direct_call_look_proxied_nor_the_reverse(
    stored: Database, mode: str, forgets: str
) -> None:
    before = direct(stored)
    session = Session(stored)
    session.sql.execute(f"SET plan_cache_mode = {mode}")
    again(session)
    for statement in forgets.split("; "):
        session.sql.execute(statement)
    if forgets == "DISCARD ALL":
        session.proxied()  # as the proxy does
    again(session)
    assert direct(stored) == before
    stranger = Session(stored, token=False)
    stranger.sql.execute(f"SET plan_cache_mode = {mode}")
    stranger.sql.execute(
        "SELECT set_config('secretproxy.session', %s, false)", (session.keys.token(session.sql.info.backend_pid, 1),)
    )
    for _ in range(8):
        assert not stranger.get("key").proxied
    assert direct(stored) == before + 8


def test_a_session_that_can_write_nothing_is_known_too(stored: Database) -> None:
    session = Session(stored, token=False)
    session.sql.execute("SET default_transaction_read_only = on")
    session.proxied()
    again(session)
    assert session.form == "SPX2"


@pytest.mark.parametrize("claim", [None, USER])
def test_every_function_says_of_a_usual_call_what_it_says_of_any_other(
    stored: Database, claim: uuid.UUID | None
) -> None:
    """A call of one name in a proxied session is told in one step; with `owner_check`, or of no name, in many."""
    session = Session(stored)
    session.sql.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(ROLE)))
    if claim is not None:
        session.sql.execute(f"SET jwt.claims.user_id = '{claim}'")
    api = "encrypted_secrets.secrets_"
    owner = claim or uuid.uuid4()
    calls: list[tuple[str, tuple[object, ...]]] = [
        (f"{api}upsert(%s, %s, %s, 'none')", (owner, "name", "value")),
        (f"{api}upsert(%s, %s, %s)", (owner, "ключ 'a\\", "value")),
        (f"{api}upsert(%s, %s, %s, %s)", (owner, "a", "value", "no ёncoding")),
        (f"{api}upsert(%s, %s, %s)", (None, "a", "value")),
        (f"{api}verify(%s, %s, %s)", (owner, "", "value")),
        (f"{api}verify(%s, %s, %s)", (owner, None, "value")),
        (f"{api}verify(%s, %s, %s)", (None, "name", "value")),
        (f"{api}verify(%s, %s, %s)", (owner, "x" * 4000, None)),
        (f"{api}verify(%s, %s, %s)", (owner, "ж" * 2001, None)),
        (f"{api}getter(%s, %s)", (owner, "there is none")),
        (f"{api}delete(%s, %s::text)", (owner, "name")),
        (f"{api}delete(%s, %s::text[])", (owner, ["ключ 'a\\"])),
        (f"{api}delete(%s, %s::text[])", (owner, [])),
        (f"{api}delete(%s, %s::text[])", (owner, ["one", None, "two"])),
        (f"{api}delete(%s, '[0:0]={{zero}}'::text[])", (owner,)),
        (f"{api}delete(%s, %s::text[])", (owner, [["a"]])),
    ]

    def told() -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for call, values in calls:
            session.messages.clear()
            with contextlib.suppress(
                errors.InvalidParameterValue, errors.NullValueNotAllowed, errors.InsufficientPrivilege
            ):
                session.sql.execute(f"SELECT {call}", values)  # type: ignore[arg-type]
            (message,) = session.messages
            said = session.keys.read(message.encode())
            assert said is not None and said.proxied and session.form == "SPX1"
            found.append(
                (said.function, said.owner, said.names, said.encoding, said.session_user, said.role, said.jwt_user)
            )
        return found

    quick = told()
    assert [(one[4], one[5], one[6]) for one in quick] == [("app_user", ROLE, claim)] * len(calls)
    assert quick[2][1:4] == (owner, ("a",), "no ёncoding") and quick[3][1] is None
    assert [one[2] for one in quick[4:9]] == [("",), (None,), ("name",), ("x" * 4000,), ("ж" * 2001,)]
    with stored.connect() as admin:
        admin.execute("UPDATE secretproxy.settings SET owner_check = 'jwt'")
        try:
            assert told() == quick
        finally:
            admin.execute("UPDATE secretproxy.settings SET owner_check = 'off'")
