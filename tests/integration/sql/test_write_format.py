"""Checks write_format: applications that read secrets_value_field themselves, with format 2 and with format 1."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database
from tests.integration.sql.test_original import uses
from tests.support import original

from secretproxy.install import revert
from secretproxy.install.keys import reencrypt

# What such an application does: the original module's own way of opening and checking.
OPEN = (
    "SELECT convert_from(decode(pgp_sym_decrypt(secrets_value_field, secrets_owned_field::text), 'hex'), 'SQL_ASCII') "
    "FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s AND name = %s"
)
CHECK = (
    "SELECT convert_from(secrets_value_field, 'SQL_ASCII') = crypt(%s::bytea::text, convert_from(secrets_value_field, 'SQL_ASCII')) "
    "FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s AND name = %s"
)
VALUES = {"pgp": "a value", "crypt": "a password", "none": "as it is"}


def fill(sql: psycopg.Connection[Any], owner: uuid.UUID) -> None:
    """Writes a secret of each encoding by the function, and one of each inserted directly."""
    for encoding, value in VALUES.items():
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, %s, %s)", (owner, encoding, value, encoding))
        sql.execute(
            "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) "
            "VALUES (%s, %s, convert_to(%s, 'UTF8'), %s)", (owner, f"direct {encoding}", value, encoding),
        )  # fmt: skip


def opened(sql: psycopg.Connection[Any], owner: uuid.UUID, name: str) -> bool:
    """Tells whether an application that opens the column itself gets the value."""
    try:
        return sql.execute(OPEN, (owner, name)).fetchone() == (VALUES["pgp"],)
    except psycopg.errors.ExternalRoutineInvocationException:
        return False


def checked(sql: psycopg.Connection[Any], owner: uuid.UUID, name: str) -> bool | None:
    """Tells whether an application that checks the hash itself finds the password right."""
    try:
        row = sql.execute(CHECK, (VALUES["crypt"], owner, name)).fetchone()
    except (psycopg.errors.InvalidParameterValue, psycopg.errors.CharacterNotInRepertoire):
        return False
    assert row is not None
    return row[0]


def functions(sql: psycopg.Connection[Any], owner: uuid.UUID) -> list[Any]:
    """Gives what the functions say of every secret."""
    told: list[Any] = []
    for encoding, value in VALUES.items():
        for name in (encoding, f"direct {encoding}"):
            told += sql.execute(
                "SELECT encrypted_secrets.secrets_getter(%(o)s, %(n)s) = %(v)s, encrypted_secrets.secrets_verify(%(o)s, %(n)s, %(v)s), "
                "encrypted_secrets.secrets_verify(%(o)s, %(n)s, 'wrong')", {"o": owner, "n": name, "v": value}
            ).fetchall()  # fmt: skip
    return told


RIGHT = [
    (True, True, False),
    (True, True, False),
    (False, True, False),
    (False, True, False),
    (True, True, False),
    (True, True, False),
]


@pytest.fixture
def adopted(empty: Database) -> Database:
    with empty.connect() as sql:
        sql.execute(original.script(sql.info.server_version // 10000))
    empty.install()
    with empty.connect() as sql:
        sql.execute("UPDATE secretproxy.settings SET crypt_cost = 4")
    return empty


def test_what_each_format_is_to_an_application_that_opens_the_column_itself(adopted: Database) -> None:
    new, old = uuid.uuid4(), uuid.uuid4()
    names = [(name, kind) for kind in ("pgp", "crypt") for name in (kind, f"direct {kind}")]
    with adopted.connect() as sql:
        fill(sql, new)
        sql.execute("UPDATE secretproxy.settings SET write_format = 1")
        fill(sql, old)
        for owner, readable in ((new, False), (old, True)):
            assert functions(sql, owner) == RIGHT
            for name, kind in names:
                assert (opened if kind == "pgp" else checked)(sql, owner, name) is readable, (name, owner == old)
        # A right password is not stored anew in format 2, and values are written once more as they were.
        assert checked(sql, old, "crypt") is True
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'pgp', %s)", (old, VALUES["pgp"]))
        assert opened(sql, old, "pgp")
        sql.execute("SELECT encrypted_secrets.secrets_table_upsert(%s, '{\"name\": \"only\", \"secrets_value_field\": \"a value\", "
                    "\"secrets_enc_field\": \"pgp\"}')", (uuid.uuid5(old, "x"),))  # fmt: skip
        assert opened(sql, uuid.uuid5(old, "x"), "only")

        # Back to format 1 for what was written meanwhile, and forward again.
        assert asyncio.run(reencrypt(adopted.dsn(), lambda done, total: None, 2)).failed == 0
        assert opened(sql, new, "pgp")
        assert opened(sql, new, "direct pgp")
        assert functions(sql, new) == functions(sql, old) == RIGHT
        sql.execute("UPDATE secretproxy.settings SET write_format = 2")
        assert asyncio.run(reencrypt(adopted.dsn(), lambda done, total: None, 2)).failed == 0
        assert not opened(sql, old, "pgp")
        assert functions(sql, new) == functions(sql, old) == RIGHT
        asyncio.run(revert(adopted.dsn()))
        assert opened(sql, new, "pgp")
        assert opened(sql, old, "pgp")


def test_a_value_that_went_past_the_trigger_opens(adopted: Database) -> None:
    owner = uuid.uuid4()
    with adopted.connect() as sql:
        sql.execute("UPDATE secretproxy.settings SET write_format = 1")
        sql.execute("ALTER TABLE secrets_schema.secrets_table DISABLE TRIGGER USER")
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'pgp', %s)", (owner, VALUES["pgp"]))
        assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'pgp')", (owner,)).fetchone() == (
            VALUES["pgp"],
        )


def test_nothing_but_1_and_2_is_a_format(adopted: Database) -> None:
    with adopted.connect() as sql:
        for wrong in (0, 3, None):
            with pytest.raises(psycopg.errors.IntegrityError):
                sql.execute("UPDATE secretproxy.settings SET write_format = %s", (wrong,))
        given = uses(sql, uuid.uuid4())
        sql.execute("UPDATE secretproxy.settings SET write_format = 1")
        assert uses(sql, uuid.uuid4()) == given
