"""Checks that a row that goes in binary form is the row that goes as a text, byte for byte, whatever stands in it, and
that the log's own columns decide whether it goes so."""

from __future__ import annotations

import asyncio
import ipaddress
import uuid
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from secretproxy.audit import chain, groups, rows
from secretproxy.audit.columns import CHAINED, NAMES, STORED
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Line, Lines
from secretproxy.session.events import Event, Identity
from tests.conftest import Backend

MASK = NameMask(5000, (), b"k" * 32)
GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"
ADDRESSES = [
    None, "192.0.2.7", "0.0.0.0", "255.255.255.255", "::", "::1", "2001:db8::1:0:0:7", "::ffff:10.0.0.7", "fe80::1%eth0", "64:ff9b::192.0.2.33",
    "::2", "::10:0", "::192.0.2.7", "::ffff:ffff", "::1:0:0", "0:1::", "::ffff:0:192.0.2.7", "1::", "1:0:0:1:1:0:0:1", "::%1",
]  # fmt: skip
NAMES_OF_SECRETS: list[tuple[str | None, ...] | None] = [
    None, (), ("key",), ("a", "b"), ("",), (None,), (None, "NULL", "null", "nul"), ("a b", "c,d", "{e}", "f"), ("caf\u00e9", "\U0001f511", "\u2003"),
    ("\x1f", "\x01", "\x7f"), ("x" * 3000, "y"), tuple(str(number) for number in range(60)), ("'", "`", "$1", "-- x", ";", "%s"), ("E'\x0e'",),
    ('"', "\\", '\\"', "a\tb", "\n", "\v\f\r\b", "\\N", "\\\\"), ("{\"a\\\\b\"}",),
]  # fmt: skip
TEXTS = [
    None, "", " ", " a ", "NULL", "t", "{}", "0", "caf\u00e9 \U0001f511", "a'b", 'a"b', "\x01\x1f\x7f", "z" * 2000,
    "\ufeffx", "e\u0301", "\\", "\\N", "a\tb\\t\n", "\b\f\r\v\\\\",
]  # fmt: skip
MOMENTS = [
    0, 1, 10, 999_999, 951_825_600_000_000, 946_684_799_999_999, 1_709_210_096_500_000, 4_102_444_800_123_456, -1,
]  # fmt: skip
DURATIONS = [
    None,
    0.0,
    1e-6,
    9.9e-5,
    1e-4,
    0.1,
    0.123456,
    0.999999,
    1.0,
    3.25,
    61.000001,
    86_400.5,
    1e9,
    12345678.654321,
    1.5e16,
    -0.5,
]
NUMBERS = [None, 0, 1, 2**31, 10**17, -1]
LINE = "SELECT {} FROM secretproxy.access_log WHERE instance = '{}' ORDER BY seq"


def all_kinds(instance: uuid.UUID) -> list[Line]:
    """Makes rows with each of these values."""
    lines, made = Lines(MASK, instance), []
    for number in range(max(map(len, (ADDRESSES, NAMES_OF_SECRETS, TEXTS, MOMENTS, DURATIONS))) * 6):
        texts = [TEXTS[(number * step + step) % len(TEXTS)] for step in range(1, 8)]
        address = ADDRESSES[number % len(ADDRESSES)]
        who = Identity(
            uuid.UUID(int=number + 1), texts[0], texts[1], texts[2], None if address is None else ipaddress.ip_address(address),
            None if number % 3 == 0 else 65_535 - number, number % 3 == 1,
        )  # fmt: skip
        event = Event(
            "access", who, NUMBERS[number % len(NUMBERS)], texts[3], ("read", None)[number % 2],
            None if number % 4 == 0 else uuid.UUID(int=2**127 + number), NAMES_OF_SECRETS[number % len(NAMES_OF_SECRETS)], texts[4] and "pgp",
            NAMES_OF_SECRETS[(number * 5 + 1) % len(NAMES_OF_SECRETS)], "simple", texts[5], texts[6], None if number % 3 else uuid.UUID(int=number),
            "ok", None if number % 2 else "57014", NUMBERS[(number + 2) % len(NUMBERS)],
        )  # fmt: skip
        line = lines.add(event, MOMENTS[number % len(MOMENTS)], DURATIONS[number % len(DURATIONS)])
        made.append(line)
    return made


async def read(connection: Any, instance: uuid.UUID) -> tuple[bytes, list[tuple[Any, ...]]]:
    """Gives the rows as the chain's lines, and each value in binary form."""
    for name, value in chain.SETTINGS.items():
        await connection.execute(f"SET LOCAL {name} = '{value}'")
    told: list[bytes] = []

    async def take(data: bytes) -> None:
        told.append(data)

    await connection.copy_from_query(LINE.format(", ".join(STORED), instance), output=take)
    found = await connection.fetch(LINE.format(", ".join(NAMES), instance))
    return b"".join(told), [tuple(row) for row in found]


@pytest.fixture(autouse=True)
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has rows made in binary form in Python too, which takes longer than it saves."""
    monkeypatch.setattr(groups, "PACKS", True)


async def row_type(connection: Any) -> int:
    """Prepares the statement for rows in binary form; gives the OID of a row's type, 0 without one."""
    nowhere = SimpleNamespace(set_protocol=lambda protocol: None)
    peer = SimpleNamespace(_transport=nowhere, _protocol=object(), _cancel_current_command=lambda waiter: None)
    writer = groups.group_writer(peer, "texts", 1.0, lambda error, rows: None)
    assert writer is not None and not writer.packs
    await groups.pack(connection, writer, f"packed_{uuid.uuid4().hex}")
    return writer._row_type


async def test_rows_are_the_same_in_both_forms(postgres: Backend) -> None:
    instance = uuid.uuid4()
    lines = all_kinds(instance)
    assert len(lines) > 35
    connection = await asyncpg.connect(postgres.dsn())
    found = []
    oid = await row_type(connection)
    writers = (rows.WRITERS[2], rows.packed_row)
    assert oid and all(rows.packed_row(line.line, line.prev_hash, line.row_hash) is not None for line in lines)
    for writer in (None, *writers):
        transaction = connection.transaction()
        await transaction.start()
        if writer is None:
            plain = [line for line in lines if line.plain() is not None]
            text = rows.joined(plain)
            assert text is not None and 20 < len(plain) < len(lines) - 20
            await connection.execute(rows.INSERT, text.decode())
            await connection.executemany(rows.INSERT_ONE, [line.fields() for line in lines if line not in plain])
        else:
            elements = [writer(line.line, line.prev_hash, line.row_hash) for line in lines]
            head = b"".join(number.to_bytes(4, "big") for number in (1, 0, oid, len(lines), 1))
            assert rows.packed(lines, head) == [head, *elements]
            # COPY of one field in binary form reads a value as Bind does.
            await connection.execute("CREATE TEMP TABLE given (rows secretproxy.access_log[]) ON COMMIT DROP")
            value = head + b"".join([one for one in elements if one is not None])
            copied = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\1" + len(value).to_bytes(4, "big") + value + b"\xff\xff"

            async def source(copied: bytes = copied) -> Any:
                yield copied

            await connection.copy_to_table("given", source=source(), format="binary")
            await connection.execute(
                rows.INSERT_PACKED.replace("$1::secretproxy.access_log[]", "(SELECT rows FROM given)")
            )
        found.append(await read(connection, instance))
        await transaction.rollback()
    await connection.close()
    lines_of_copy, values = found[0]
    assert len(values) == len(lines) and lines_of_copy.splitlines() == [line.stored() for line in lines]
    assert found[1] == found[0] and found[2] == found[0]


async def test_a_log_with_other_columns_takes_no_binary_form(postgres: Backend) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    for change in (
        "ADD COLUMN more int", "RENAME COLUMN calls TO times", "DROP COLUMN tls CASCADE",
    ):  # fmt: skip
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"ALTER TABLE secretproxy.access_log {change}")
        assert await row_type(connection) == 0
        await transaction.rollback()
    assert await row_type(connection) > 0
    await connection.close()


# Columns that are others while rows are written; whether a row in binary form can still be read.
LOG = "ALTER TABLE secretproxy.access_log"
CHANGES = {
    "names exchanged": (
        f"{LOG} RENAME outcome TO x; {LOG} RENAME sqlstate TO outcome; {LOG} RENAME x TO sqlstate", True,
    ),
    "names moved on": (
        f"{LOG} RENAME db_user TO x; {LOG} RENAME fingerprint TO db_user; {LOG} RENAME protocol TO fingerprint;"
        f"{LOG} RENAME x TO protocol", True,
    ),
    "made again in another order": (
        f"{LOG} DROP outcome CASCADE, DROP sqlstate CASCADE, DROP duration CASCADE, DROP calls CASCADE;"
        f"{LOG} ADD sqlstate text, ADD outcome text, ADD duration float8, ADD calls int8", True,
    ),
    "one more": (f"{LOG} ADD more int", False),
    "one that is computed": (f"{LOG} ADD more text GENERATED ALWAYS AS (function) STORED", False),
    "of another type": (f"{LOG} DROP calls CASCADE; {LOG} ADD calls numeric", False),
    "made again": (f"{LOG} DROP role CASCADE; {LOG} ADD role text", False),
    "of a domain": (f"CREATE DOMAIN pg_temp.d AS int8; {LOG} DROP calls CASCADE; {LOG} ADD calls pg_temp.d", True),
    "statements gone": ("DEALLOCATE ALL", False),
    "a table made again": (
        "CREATE TABLE public.l (LIKE secretproxy.access_log INCLUDING ALL); DROP TABLE secretproxy.access_log CASCADE;"
        "ALTER TABLE public.l RENAME TO access_log; ALTER TABLE public.access_log SET SCHEMA secretproxy", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
async def test_columns_that_change_meanwhile_get_what_a_text_gives_them(postgres: Backend, name: str) -> None:
    change, can_be_read = CHANGES[name]
    instance = uuid.uuid4()
    lines = all_kinds(instance)[:9]
    connection = await asyncpg.connect(postgres.dsn(), server_settings={"client_min_messages": "warning"})
    try:
        answers: asyncio.Queue[tuple[BaseException | None, int]] = asyncio.Queue()
        _, writer = await groups.open_writer(connection, 10, lambda error, count: answers.put_nowait((error, count)))
        assert writer is not None and writer.packs
        bound = writer.bound(lines)
        assert bound is not None
        query = f"SELECT * FROM secretproxy.access_log WHERE instance = '{instance}' ORDER BY seq"
        await connection.execute("BEGIN")
        if not change.startswith("DEALLOCATE"):
            # Once as a plan is made.
            writer.write(bound, len(lines))
            assert (await asyncio.wait_for(answers.get(), 10)) == (None, len(lines))
            await connection.execute("ROLLBACK; BEGIN")
        await connection.execute(change)
        await connection.execute("SAVEPOINT before")
        writer.write(bound, len(lines))
        error, count = await asyncio.wait_for(answers.get(), 10)
        if can_be_read:
            assert (error, count) == (None, len(lines))
            packed = [tuple(row) for row in await connection.fetch(query)]
            await connection.execute("ROLLBACK TO SAVEPOINT before")
            for line in lines:
                await connection.execute(rows.INSERT_ONE, *line.fields())
            assert [tuple(row) for row in await connection.fetch(query)] == packed
        else:
            # Then they go as texts.
            assert groups.other_rows(error), error
    finally:
        connection.terminate()


def test_the_columns_of_a_line_have_their_places() -> None:
    assert CHAINED[:4] == ("instance", "seq", "id", "at") and set(NAMES) == set(STORED)
