"""What writes rows of the log by columns writes what is written value by value."""

from __future__ import annotations

import asyncio
import csv
import io
import ipaddress
import json
import math
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from asyncpg.pgproto.pgproto import UUID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secretproxy.audit import chain, exporting, exports, records
from secretproxy.audit.columns import CHAINED, NAMES, TYPES
from secretproxy.audit.exports import ExportTally

TIMES = st.datetimes(datetime(1, 2, 1), datetime(9999, 12, 1), timezones=st.just(UTC))  # noqa: DTZ001
TEXTS = st.sampled_from(["", "ok", "\\N", "a\tb\\", "=1+2", "x;@y", 'a"b', "é\u202e\U0001f511", "\x7f", "50%s", "null"])
UUIDS = st.uuids().map(lambda value: UUID(value.bytes))
OF_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS | st.text(max_size=300), "int8": st.integers(-(2**63), 2**63 - 1), "int4": st.integers(-9, 99999),
    "bool": st.booleans(), "uuid": UUIDS, "timestamptz": TIMES, "float8": st.floats(), "bytea": st.binary(max_size=32),
    "text[]": st.lists(st.none() | TEXTS | st.just("NULL"), max_size=3),
    "inet": st.ip_addresses() | st.just(ipaddress.ip_interface("10.0.0.7/24")),
}  # fmt: skip
ROWS = st.fixed_dictionaries({name: st.none() | OF_TYPE[TYPES[name]] for name in NAMES})
# What looks alike to a dictionary and is written differently.
ALIKE: list[dict[str, Any]] = [{"outcome": value, "%s": 1} for value in (1, True, 1.0, 0, False, "1", None, b"1", [1])]


def as_before(row: dict[str, Any], form: str, *, raw: bool, heading: bool) -> str:
    """Writes a row value by value."""
    record = records.record_of(row)
    if form == "jsonl":
        return json.dumps(record) + "\n"
    out = io.StringIO()
    writer = csv.DictWriter(out, list(record))
    if heading:
        writer.writeheader()
    writer.writerow({name: records.cell_of(value, raw) for name, value in record.items()})
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=4), st.booleans())
@example([dict.fromkeys(NAMES, value) for value in (None, "", "a")], False)
def test_rows_are_written_as_value_by_value(rows: list[dict[str, Any]], raw: bool) -> None:
    for form in ("jsonl", "csv"):
        out = io.StringIO()
        write = records.writer_to(out, form == "csv", raw)
        for row in rows:
            write(row)
        expected = [as_before(row, form, raw=raw, heading=not place) for place, row in enumerate(rows)]
        assert out.getvalue() == "".join(expected), form


def test_values_that_are_equal_but_not_alike_are_written_as_they_are() -> None:
    line = records.json_lines()
    for row in [*ALIKE, *reversed(ALIKE)]:
        if not isinstance(row["outcome"], list):
            assert line(row) == json.dumps(records.record_of(row)) + "\n"


def test_other_columns_and_more_texts_than_are_kept() -> None:
    line = records.json_lines()
    for number in range(records._MOST_KEPT + 10):
        row = {"db_user": f"user {number}"} if number % 2 else {"application_name": "x" * number, "calls": number}
        assert line(row) == json.dumps(row) + "\n"
    assert line({"db_user": None}) == '{"db_user": null}\n'


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_the_tally_takes_the_line_of_each_record(rows: list[dict[str, Any]]) -> None:
    """An export's digest is that of the rows as their reader has them."""
    whole = [
        row | {"id": row["id"] or UUID(uuid.uuid4().bytes)}
        for row in rows
        if row["duration"] is None or not math.isnan(row["duration"])
    ]

    async def each() -> AsyncIterator[Any]:
        for row in whole:
            yield row

    async def taken() -> ExportTally:
        tally = ExportTally()
        assert [row async for row in exporting.tallied(each(), tally)] == whole
        return tally

    read = ExportTally()
    for row in whole:
        record = records.record_of(row)
        body = chain.covered(b"\t".join([chain.encode([row[name]]) for name in CHAINED]))
        assert exports.body_of(record | {"at": row["at"]}) == body
        read.take(record, body)
    made_at = datetime.now(UTC)
    assert asyncio.run(taken()).manifest({}, "jsonl", made_at, []) == read.manifest({}, "jsonl", made_at, [])


@given(TIMES, st.integers(-14 * 60, 14 * 60))
@example(datetime(2026, 11, 27, 1, 2, 3, 120000, UTC), 0)
@example(datetime(999, 1, 1, tzinfo=UTC), 0)
def test_a_time_is_written_as_postgres_writes_it(at: datetime, minutes: int) -> None:
    written = chain.field(at.astimezone(timezone(timedelta(minutes=minutes))))
    assert datetime.fromisoformat(written.removesuffix("+00")).replace(tzinfo=UTC) == at
    assert written == chain.field(at)
    seconds = written.removesuffix("+00").partition(".")[2]
    assert not seconds.endswith("0")
    assert (seconds == "") == (at.microsecond == 0)
    assert len(written.partition("-")[0]) == 4
