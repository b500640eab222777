"""Checks that what goes in comes out, nothing else does, and no row means anything under another owner or name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.sql.conftest import Database

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a11")
OTHER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a12")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=400)
THOUSAND = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sql(installed: Database) -> Iterator[psycopg.Connection[Any]]:
    with installed.connect() as connection:
        yield connection


def one(sql: psycopg.Connection[Any], statement: str, *values: object) -> Any:
    row = sql.execute(statement, values).fetchone()
    assert row is not None
    return row[0]


def upsert(
    sql: psycopg.Connection[Any], name: str, value: str, encoding: str = "pgp", owner: uuid.UUID = OWNER
) -> None:
    assert one(sql, "SELECT encrypted_secrets.secrets_upsert(%s, %s, %s, %s)", owner, name, value, encoding) is True


def getter(sql: psycopg.Connection[Any], name: str, owner: uuid.UUID = OWNER) -> Any:
    return one(sql, "SELECT encrypted_secrets.secrets_getter(%s, %s)", owner, name)


def verify(sql: psycopg.Connection[Any], name: str, value: str | None) -> Any:
    return one(sql, "SELECT encrypted_secrets.secrets_verify(%s, %s, %s)", OWNER, name, value)


@THOUSAND
@given(name=TEXT, value=TEXT, encoding=st.sampled_from(["pgp", "none"]))
def test_what_was_stored_is_read(sql: psycopg.Connection[Any], name: str, value: str, encoding: str) -> None:
    upsert(sql, name, value, encoding)
    assert getter(sql, name) == value
    assert verify(sql, name, value) is True


@pytest.mark.parametrize(
    "value",
    [
        "",
        "\\",
        "\\x6162",
        "\\141",
        "'",
        '"',
        "a\nb\r\tc",
        "\ufeff",
        "e\u0301",
        "\U0001f511",
        "\U0010fffd",
        "x" * 2**20,
        "\\" * 2**20,
    ],
    ids=lambda value: f"{value[:6]!r}*{len(value)}",
)
def test_awkward_values(sql: psycopg.Connection[Any], value: str) -> None:
    for encoding in ("pgp", "none"):
        upsert(sql, "awkward", value, encoding)
        assert getter(sql, "awkward") == value
    upsert(sql, "awkward", value, "crypt")
    assert verify(sql, "awkward", value) is True
    assert verify(sql, "awkward", value + "x") is False


@THOUSAND
@given(
    start=st.sampled_from(["", "p" * 100, "\u20ac" * 100]),
    value=TEXT,
    other=TEXT,
    encoding=st.sampled_from(["crypt", "pgp"]),
)
def test_only_the_value_verifies(
    sql: psycopg.Connection[Any], start: str, value: str, other: str, encoding: str
) -> None:
    upsert(sql, "password", start + value, encoding)
    assert verify(sql, "password", start + value) is True
    assert verify(sql, "password", start + other) is (other == value)


@THOUSAND
@given(names=st.lists(TEXT, min_size=2, max_size=2, unique=True), value=TEXT.filter(bool), to_owner=st.booleans())
def test_a_moved_row_never_opens(sql: psycopg.Connection[Any], names: list[str], value: str, to_owner: bool) -> None:
    name, other = names
    upsert(sql, name, value)
    sql.execute("DELETE FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s OR name = %s", (OTHER, other))
    owner, name = (OTHER, name) if to_owner else (OWNER, other)
    sql.execute(
        "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) "
        "SELECT %s, %s, secrets_value_field, 'pgp' FROM secrets_schema.secrets_table WHERE (secrets_owned_field, name) = (%s, %s)",
        (owner, name, OWNER, names[0]),
    )
    with pytest.raises(psycopg.Error) as caught:
        getter(sql, name, owner)
    assert caught.value.sqlstate in ("39000", "22023")
    assert value not in str(caught.value) or len(value) < 40


def test_verify_is_never_null(sql: psycopg.Connection[Any]) -> None:
    upsert(sql, "there", "value", "crypt")
    missing = str(uuid.uuid4())
    for name, value in ((missing, "x"), (missing, None), ("there", None), ("there", "wrong")):
        assert verify(sql, name, value) is False


def test_an_unknown_encoding_is_refused(sql: psycopg.Connection[Any]) -> None:
    for encoding in ("PGP", "", "rot13", None):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            one(sql, "SELECT encrypted_secrets.secrets_upsert(%s, 'n', 'v', %s)", OWNER, encoding)


def test_a_row_that_is_inserted_directly_is_sealed(sql: psycopg.Connection[Any]) -> None:
    # hypothesis draws names from the texts of this file too.
    sql.execute("DELETE FROM secrets_schema.secrets_table WHERE name LIKE 'direct %'")
    sql.execute(
        "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) "
        "VALUES (%(o)s, 'direct pgp', convert_to('seen', 'UTF8'), 'pgp'), (%(o)s, 'direct crypt', convert_to('seen', 'UTF8'), 'crypt')",
        {"o": OWNER},
    )
    stored = sql.execute(
        "SELECT position(convert_to('seen', 'UTF8') IN secrets_value_field) FROM secrets_schema.secrets_table WHERE name LIKE 'direct %'"
    ).fetchall()
    assert stored == [(0,), (0,)]
    assert getter(sql, "direct pgp") == "seen"
    assert verify(sql, "direct crypt", "seen") is True
