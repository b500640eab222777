"""Checks the log's columns: what derives from their table says the same, and one more entry is all that a new column
needs in Python."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from secretproxy.audit import chain, columns, rows
from secretproxy.audit.columns import BY_NAME, CHAINED, NAMES
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Line, Lines
from secretproxy.session.events import Event, Identity

ROOT = Path(__file__).parents[2]
WHO = Identity(
    uuid.UUID(int=1), "a login", "a\tdatabase", "an application", ipaddress.ip_address("::ffff:10.0.0.7"), 40_001, True
)
# Every field has a value of its own, so that none can stand in another's place unseen.
FULL = Event(
    "attempt", WHO, 3, "f(uuid,text)", "read", uuid.UUID(int=4), ("a name", None, 'q"'), "pgp", ("v()", "w"), "extended", "0a1b\\", "a role",
    uuid.UUID(int=5), "ok", "00000", 7,
)  # fmt: skip
BARE = Event("refusal", Identity(uuid.UUID(int=2)))


def lines() -> Lines:
    return Lines(NameMask(128, (), b"k" * 32), uuid.UUID(int=9))


@pytest.mark.parametrize("event", [FULL, BARE], ids=["full", "bare"])
def test_the_line_that_is_written_out_is_the_one_that_the_table_says(event: Event) -> None:
    written = dict(zip(CHAINED, lines().add(event, 0, None).line.decode().split("\t"), strict=True))
    said = {name: lines().written(BY_NAME[name], event) for name in CHAINED if BY_NAME[name].source != "journal"}
    assert said == {name: written[name] for name in said}


def test_each_column_of_an_event_and_an_identity_is_in_the_table() -> None:
    of_event, of_identity = (
        {column.name for column in columns.TABLE if column.source == source} for source in ("event", "identity")
    )
    assert of_event == {name for name in dir(FULL) if not name.startswith("_")} - {"who", "timing"}
    assert of_identity == set(Identity.__dataclass_fields__) - {"as_logged"}


def test_the_table_that_is_installed_has_the_columns_in_their_order() -> None:
    deploy = (ROOT / "src/secretproxy/sql/deploy/access_log.sql").read_text(encoding="utf-8")
    body = deploy.partition("CREATE TABLE IF NOT EXISTS secretproxy.access_log (\n")[2].partition("\n    UNIQUE")[0]
    synonyms = {"bigint": "int8", "int": "int4", "boolean": "bool", "double precision": "float8"}
    found = {}
    for line in body.splitlines():
        match = re.match(r" +(\w+) (?:pg_catalog\.)?(double precision|[\w\[\]]+)", line)
        assert match is not None, line
        found[match[1]] = synonyms.get(match[2], match[2])
    first = {column.name: column.type for column in columns.TABLE if not column.added}
    assert list(found.items()) == list(first.items())


def test_the_docs_describe_the_columns() -> None:
    assert columns.reference() in (ROOT / "docs/reviewing-the-log.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in columns.reference() for name in NAMES)


# Run with one more column, on lines that were written without it: given as arguments.
WITH_ONE_MORE = """
import json, sys, uuid
from secretproxy.audit import chain, columns, exports, rows, spool_review, unwritable, verify
from secretproxy.audit.masking import NameMask
from secretproxy.session.events import Event, Identity

assert columns.NAMES[-1] == columns.CHAINED[-1] == "backend_pid"
assert "backend_pid, prev_hash, row_hash" in rows.INSERT and "::pg_catalog.int4" in rows.INSERT_ONE
older = [rows.stored_line(bytes.fromhex(text)) for text in sys.argv[1:]]
assert all(len(line.fields()) == len(columns.STORED) for line in older)
lines = rows.Lines(NameMask(128, (), b"k" * 32), older[0].instance)
lines.seq, lines.last_hash = older[-1].seq, older[-1].row_hash
event = Event("attempt", Identity(uuid.uuid4()))
without = lines.add(event, 0, None)
event.backend_pid = 4711
with_it = lines.add(event, 0, 1.5)
assert spool_review._row(without)["backend_pid"] is None
assert spool_review._row(with_it)["backend_pid"] == 4711
assert with_it.after(with_it.prev_hash) == with_it and with_it.line.endswith(b"\\t4711")

def findings(*lines):
    verifier = verify.ChainVerifier(None)
    verifier.lines(b"".join(line.line + b"\\t\\\\\\\\x%b\\t\\\\\\\\x%b\\n" % (line.prev_hash.hex().encode(), line.row_hash.hex().encode()) for line in lines))
    return [found.kind for found in verifier.finish().findings]

assert findings(*older, without, with_it) == []
for text in (b"\\\\N", b"4712"):
    changed = rows.Line(with_it.seq, with_it.line.replace(b"4711", text), with_it.prev_hash, with_it.row_hash)
    assert findings(*older, without, changed) == ["changed"]
changed = rows.Line(without.seq, without.line[:-2] + b"1", without.prev_hash, without.row_hash)
assert findings(*older, changed, with_it) == ["changed"]
assert all(form.fields()[columns.STORED.index("backend_pid")] is None for form in list(unwritable.reduced(with_it))[2:])

for line in (with_it, without):
    record = spool_review._row(line)
    for name in ("prev_hash", "row_hash"):
        record[name] = record[name][2:]
    assert exports._fits(record, exports.body_of(record))
    body = exports.body_of(record)
    assert chain.covered(body) == body
record = {name: value for name, value in spool_review._row(older[0]).items() if name != "backend_pid"}
for name in ("prev_hash", "row_hash"):
    record[name] = record[name][2:]
assert exports._fits(record, exports.body_of(exports._ADDED | record))
print("done")
"""


def test_one_more_entry_is_written_read_verified_and_exported_beside_rows_of_before(tmp_path: Path) -> None:
    """Adds a column to a copy of the source as somebody would: an entry of the table, and the event's field."""
    shutil.copytree(
        ROOT / "src/secretproxy",
        tmp_path / "secretproxy",
        ignore=shutil.ignore_patterns("*.so", "__pycache__", "sql", "demo", "cli", "proxy"),
    )
    table = tmp_path / "secretproxy/audit/columns.py"
    source = table.read_text(encoding="utf-8")
    entry = (
        '    LogColumn("backend_pid", "int4", "event", "number", "Process of the backend", added=True),\n)\n\nNAMES ='
    )
    assert source.count("\n)\n\nNAMES =") == 1
    table.write_text(source.replace(")\n\nNAMES =", entry), encoding="utf-8")
    events = tmp_path / "secretproxy/session/events.py"
    source = events.read_text(encoding="utf-8")
    assert source.count('"accessed_by", "calls",') == source.count("        self.calls = calls\n") == 1
    source = source.replace('"accessed_by", "calls",', '"accessed_by", "backend_pid", "calls",')
    source = source.replace(
        "        self.calls = calls\n", "        self.calls = calls\n        self.backend_pid: int | None = None\n"
    )
    events.write_text(source, encoding="utf-8")
    older = lines()
    stored: list[Line] = [older.add(event, 1_000_000 * number, 0.5) for number, event in enumerate([FULL, BARE, FULL])]
    ran = subprocess.run(
        [sys.executable, "-c", WITH_ONE_MORE, *(line.stored().hex() for line in stored)],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


def test_seconds_are_written_as_the_database_writes_them() -> None:
    # Each microsecond up to a hundredth of a second, then steps that meet all lengths of a fraction.
    for micros in [*range(10_000), *range(10_000, 3_000_000, 1_237), 999_999, 1_000_000, 10**9]:
        assert rows._seconds(micros / 1e6) == chain.number(round(micros / 1e6, 6)), micros
