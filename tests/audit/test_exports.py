"""Checks that a part of the log that was exported is proven as that part, in every form, without the database; a cut or
a change is named."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from secretproxy.audit import chain, exports, forms
from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.columns import NAMES as NAMES_OF_ROWS
from secretproxy.audit.columns import STORED, TYPES
from secretproxy.audit.forms import rows_file
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Lines
from secretproxy.cli.app import app
from secretproxy.config import ConfigError
from secretproxy.install import install
from secretproxy.session.events import Event, Identity
from tests.conftest import Backend

DATABASE = "exported"
MONTHS = ((2026, 1), (2026, 2), (2026, 3))
OWNERS = [uuid.UUID(int=number) for number in (11, 12)]
NAMES = ("plain", "=1+1", "'quoted", 'a,"b"\n;-c', "", "Schl\xfcssel", "@x")
FORMS = ["jsonl", "csv"] + (["parquet"] if importlib.util.find_spec("pyarrow") else [])


@dataclass
class Site:
    dsn: str
    directory: Path
    configured: Path
    keyless: Path
    chains: dict[str, int]

    def export(self, file: Path, *arguments: str, signed: bool = True) -> None:
        config = self.configured if signed else self.keyless
        done = CliRunner().invoke(
            app, ["audit", "export", str(file), "--dsn", self.dsn, "--config", str(config), *arguments]
        )
        assert done.exit_code == 0, done.output
        assert ("signed" in done.stderr) and (("not signed" in done.stderr) != signed)

    def verify(self, file: Path, *arguments: str, key: bool = True) -> Result:
        """The verification works offline, with the public key alone."""
        public = ["--public-key", str(self.directory / "sign.key.pub")] if key else []
        return CliRunner().invoke(
            app, ["audit", "verify", "--file", str(file), "--config", str(self.keyless), *public, *arguments]
        )


@pytest.fixture(scope="module")
def site(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("exports")
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    dsn = postgres.dsn(database=DATABASE)
    asyncio.run(install(dsn, postgres.key_file))
    signer = Signer(directory / "sign.key")
    chains: dict[str, int] = {}
    with psycopg.connect(dsn, autocommit=True) as admin:
        for place in range(3):
            instance = uuid.UUID(int=100 + place)
            lines = Lines(NameMask(200, (), b"k"), instance)
            signed = [signer.sign(instance, 0, chain.GENESIS)]
            with admin.cursor().copy(f"COPY secretproxy.access_log ({', '.join(STORED)}) FROM STDIN") as copy:
                for number, (year, month) in enumerate((*MONTHS, *MONTHS[:1]) if place == 2 else MONTHS):
                    for day in range(1, 28, 3):
                        at = datetime(year, month, day, place, number, tzinfo=UTC)
                        who = Identity(uuid.UUID(int=500 + day % 2), f"user{day % 2}", "app", NAMES[day % len(NAMES)])
                        event = Event(
                            "call", who, day, "f(uuid)", ("read", "write")[day % 2], OWNERS[day % 2], (NAMES[day % len(NAMES)], None), via=("g()",)
                        )  # fmt: skip
                        line = lines.add(event, round(at.timestamp() * 1e6), 0.5)
                        copy.write(line.stored() + b"\n")
                        if line.seq % 10 == 0:
                            signed.append(signer.sign(instance, line.seq, line.row_hash))
            chains[str(instance)] = lines.seq
            for one in signed:
                admin.execute(
                    "INSERT INTO secretproxy.checkpoints (instance, seq, row_hash, at, signature, kind) VALUES (%s, %s, %s, %s, %s, %s)",
                    (one.instance, one.seq, one.row_hash, one.at, one.signature, one.kind),
                )
        admin.execute(
            "INSERT INTO secretproxy.access_log (event, at, function) VALUES ('direct', '2026-02-03', '=f()'), ('direct', '2026-02-03', '')"
        )
    (directory / "configured.toml").write_text(f'[audit]\ncheckpoint_key_file = "{directory}/sign.key"\n')
    (directory / "keyless.toml").write_text(f'[testimony]\nkey_file = "{directory}/none"\n')
    return Site(dsn, directory, directory / "configured.toml", directory / "keyless.toml", chains)


def day_of(moment: datetime) -> list[str]:
    return ["--since", moment.isoformat(), "--until", (moment + timedelta(days=1)).isoformat()]


PARTS: dict[str, list[str]] = {
    "everything": [],
    **{f"month {month}": ["--since", f"{year}-{month:02}-01T00:00+00:00", "--until", f"{year}-{month + 1:02}-01T00:00+00:00"] for year, month in MONTHS},
    **{f"day {day}": day_of(datetime(2026, 2, day, tzinfo=UTC)) for day in range(1, 6)},
    "a day with nothing": day_of(datetime(2025, 1, 1, tzinfo=UTC)),
    "since": ["--since", "2026-02-10T00:00+00:00"],
    "until": ["--until", "2026-02-10T00:00+00:00"],
    "an owner": ["--owner", str(OWNERS[0])],
    "a user": ["--user", "user1"],
    "an operation": ["--operation", "write"],
    "a secret": ["--secret", "=1+1"],
    "a session": ["--session", str(uuid.UUID(int=501))],
    "an outcome": ["--outcome", "unknown", "--user", "user1"],
    "an outcome that none has": ["--outcome", "error,lost", "--sqlstate", "42501"],
    "a user in a month": ["--user", "user0", "--since", "2026-02-01T00:00+00:00", "--until", "2026-03-01T00:00+00:00"],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_proven_in_every_form(site: Site, tmp_path: Path, part: str, form: str) -> None:
    file = tmp_path / "part"
    site.export(file, "--format", form, *PARTS[part])
    done = site.verify(file)
    assert done.exit_code == 0, done.output
    assert "proven: the file is whole" in done.output and "nothing was altered" in done.output
    if part.startswith("day 4") or part == "month 2":
        assert "not proven: rows before the first of" in done.output
    told = json.loads((tmp_path / "part.manifest.json").read_text())
    assert len(told["filters"]) == len(PARTS[part]) // 2


def test_a_manifest_says_what_the_export_has(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    site.export(file)
    told = json.loads((tmp_path / "all.jsonl.manifest.json").read_text())
    assert {
        one["instance"]: (one["first_seq"], one["last_seq"], one["count"], one["gaps"]) for one in told["chains"]
    } == {name: (1, last, last, 0) for name, last in site.chains.items()}
    assert told["rows"] == sum(site.chains.values()) + 2 and told["direct"] == 2
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for one in told["chains"]:
        own = [row for row in rows if row["instance"] == one["instance"]]
        assert (one["first_prev_hash"], one["last_row_hash"]) == (own[0]["prev_hash"], own[-1]["row_hash"])
        assert one["checkpoints"][0]["seq"] == one["last_seq"] // 10 * 10


def cut(lines: list[str]) -> list[str]:
    return lines[:-4]


def changed(lines: list[str]) -> list[str]:
    row = json.loads(lines[10])
    return [*lines[:10], json.dumps(row | {"db_user": "nobody"}), *lines[11:]]


DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "cut at the end": (cut, "truncated"),
    "cut at the beginning": (lambda lines: lines[3:], "missing"),
    "a row left out": (lambda lines: [*lines[:10], *lines[11:]], "missing"),
    "a chain left out": (lambda lines: [line for line in lines if json.loads(line)["instance"] != str(uuid.UUID(int=101))], "truncated"),
    "a column changed": (changed, "changed"),
    "two rows in another order": (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "reordered"),
    "a row twice": (lambda lines: [*lines[:6], *lines[5:]], "reordered"),
    "a direct call left out": (lambda lines: [line for line in lines if '"=f()"' not in line], "truncated"),
    "a direct call changed": (lambda lines: [line.replace('"=f()"', '"g()"') for line in lines], "changed"),
    "an id changed": (lambda lines: [json.dumps(json.loads(line) | {"id": str(uuid.UUID(int=7))}) if n == 3 else line for n, line in enumerate(lines)], "changed"),
    "ids exchanged": (lambda lines: [*lines[:3], *(json.dumps(json.loads(lines[a]) | {"id": json.loads(lines[b])["id"]}) for a, b in ((3, 4), (4, 3))), *lines[5:]], "changed"),
    "nothing left": (lambda lines: [], "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("part", ["everything", "month 2", "a user"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_done_to_a_file_is_named(site: Site, tmp_path: Path, part: str, damage: str) -> None:
    file = tmp_path / "log.jsonl"
    site.export(file, *PARTS[part])
    done, kind = DAMAGES[damage]
    before = file.read_text().splitlines()
    after = done(before)
    file.write_text("".join(line + "\n" for line in after))
    found = site.verify(file)
    assert (found.exit_code == 0) == (before == after), found.output
    if before != after:
        assert any(line.startswith(kind) for line in found.output.splitlines()), found.output
        assert "proven: the file is whole" not in found.output


@pytest.mark.parametrize("what", ["rows", "filters", "chains", "signature", "another key"])
def test_a_manifest_that_was_changed_is_named(site: Site, tmp_path: Path, what: str) -> None:
    file, beside = tmp_path / "log.jsonl", tmp_path / "log.jsonl.manifest.json"
    site.export(file, *PARTS["month 2"])
    told: dict[str, Any] = json.loads(beside.read_text())
    if what == "another key":
        from secretproxy.audit import exports

        exports.sign(told, Signer(tmp_path / "other.key"))
    else:
        told[what] = {"rows": 3, "filters": {}, "chains": told["chains"][:1], "signature": "AAAA"}[what]
    beside.write_text(json.dumps(told))
    found = site.verify(file)
    assert found.exit_code == 1 and "manifest: " in found.output


def test_an_export_by_outcome_says_what_it_proves_and_what_not(site: Site, tmp_path: Path) -> None:
    """Whoever changes the manifest's filter, and signs nothing, is denied by the rows; a filter of another version, or
    of nobody's, is refused."""
    file, beside = tmp_path / "log.jsonl", tmp_path / "log.jsonl.manifest.json"
    site.export(file, *PARTS["an outcome"], signed=False)
    told = json.loads(beside.read_text())
    assert told["filters"] == {"user": "user1", "outcome": "unknown"} and told["of"] == "accesses"
    done = site.verify(file)
    assert f"proven: each of the {told['rows']} accesses in the file matches these filters" in done.output
    assert "not proven: that no other access matched" in done.output
    assert f"not proven: that the {told['rows']} accesses without an outcome had none" in done.output
    for changed in (
        {"outcome": "ok"},
        {"calls": "3"},
        {"jwt_user": str(OWNERS[0])},
        {"user": "user0", "role": "r"},
        {"secret": "other"},
    ):
        beside.write_text(json.dumps(told | {"filters": told["filters"] | changed}))
        found = site.verify(file)
        assert found.exit_code == 1 and "does not match the filter that the manifest names" in found.output, changed
        assert "proven: each of" not in found.output
    for unknown in ({"mood": "good"}, {"outcome": "fine"}, {"since": "long ago"}, {"encoding": "KLINGON"}):
        beside.write_text(json.dumps(told | {"filters": unknown}))
        assert isinstance(site.verify(file).exception, ConfigError), unknown


def test_what_is_not_signed_is_said_to_be_unproven(site: Site, tmp_path: Path) -> None:
    file, beside = tmp_path / "log.jsonl", tmp_path / "log.jsonl.manifest.json"
    site.export(file, *PARTS["month 2"], signed=False)
    found = site.verify(file)
    assert found.exit_code == 0 and "not proven: the manifest is not signed" in found.output
    assert "not proven: no public key" in site.verify(file, key=False).output
    # Without a manifest a part is no whole, and a whole is one only as far as it goes.
    beside.unlink()
    assert site.verify(file).exit_code == 1
    whole = tmp_path / "whole.jsonl"
    site.export(whole, "--manifest", str(tmp_path / "elsewhere"), signed=False)
    assert "not proven: that the file is whole" in site.verify(whole).output
    assert site.verify(whole, "--manifest", str(tmp_path / "elsewhere")).exit_code == 0


def test_a_chain_made_anew_is_denied_by_the_checkpoints_in_the_manifest(site: Site, tmp_path: Path) -> None:
    """Whoever changes file and manifest alike, and leaves it unsigned, still cannot sign a checkpoint."""
    file, beside = tmp_path / "log.csv", tmp_path / "log.csv.manifest.json"
    site.export(file, "--format", "csv", signed=False)
    told = json.loads(beside.read_text())
    told["chains"][0]["checkpoints"][0]["row_hash"] = "00" * 32
    beside.write_text(json.dumps(told))
    found = site.verify(file)
    assert found.exit_code == 1 and "the signature of a checkpoint is wrong" in found.output


def test_a_table_may_be_opened_by_a_spreadsheet_and_is_proven_all_the_same(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    site.export(file, "--format", "csv")
    with file.open(newline="") as table:
        cells = [cell for row in csv.DictReader(table) for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert site.verify(file).exit_code == 0


def test_what_other_readers_would_read_is_refused(site: Site, tmp_path: Path) -> None:
    """A name that comes twice, a column that no export has, a value of another type: what is verified is what any
    reader is shown."""
    file = tmp_path / "log.jsonl"
    site.export(file)
    lines = file.read_text().splitlines()
    row = json.loads(lines[4])
    forged = [
        '{"db_user": "nobody", ' + lines[4][1:],
        lines[4][:-1] + ', "note": "approved"}',
        json.dumps(row | {"secret_names": "{" + ",".join(str(name) for name in row["secret_names"]) + "}"}),
        json.dumps(row | {"seq": float(row["seq"])}),
        json.dumps(row | {"db_user": [row["db_user"]]}),
    ]
    for text in forged:
        file.write_text("\n".join([*lines[:4], text, *lines[5:]]) + "\n")
        assert isinstance(site.verify(file).exception, ConfigError), text
    beside = tmp_path / "log.jsonl.manifest.json"
    file.write_text("\n".join(lines) + "\n")
    told = beside.read_text()
    beside.write_text('{"filters": {"owner": "all"}, ' + told[1:])
    assert isinstance(site.verify(file).exception, ConfigError)
    table = tmp_path / "log.csv"
    site.export(table, "--format", "csv")
    head, *rest = table.read_text().splitlines(keepends=True)
    for name in ("db_user", "note"):
        table.write_text(head.rstrip("\r\n") + f",{name}\r\n" + "".join(one.rstrip("\r\n") + ",x\r\n" for one in rest))
        assert isinstance(site.verify(table).exception, ConfigError), name


def test_files_that_are_no_export_are_refused(site: Site, tmp_path: Path) -> None:
    for number, text in enumerate(("{}\n", "nothing\n", "id,at\n1,2\n", '{"event": "call"}\n')):
        file = tmp_path / str(number)
        file.write_text(text)
        assert isinstance(site.verify(file).exception, ConfigError)
    file.write_text("")
    (tmp_path / "m").write_text("{}")
    assert isinstance(site.verify(file, "--manifest", str(tmp_path / "m")).exception, ConfigError)


@pytest.mark.parametrize("form", FORMS)
def test_columns_that_nothing_proves_are_refused(site: Site, tmp_path: Path, form: str) -> None:
    file = tmp_path / "log"
    site.export(file, "--format", form)
    if form == "parquet":
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import pyarrow.parquet as parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

        table = parquet.read_table(file)
        note = pyarrow.array(["all fine"] * len(table))
        made = [table.append_column("note", note), table.drop_columns(["tls"]), table.append_column("db_user", note)]
        for one in made:
            parquet.write_table(one, file)
            assert isinstance(site.verify(file).exception, ConfigError)
        return
    lines = file.read_text().split("\n")
    if form == "csv":
        changes = [[lines[0] + ",note", *lines[1:]]]
    else:
        changes = [[lines[0].replace("{", '{"note": "all fine", ', 1), *lines[1:]]]
        changes.append([json.dumps({k: v for k, v in json.loads(lines[0]).items() if k != "tls"}), *lines[1:]])
    for change in changes:
        file.write_text("\n".join(change))
        assert isinstance(site.verify(file).exception, ConfigError)


@pytest.mark.skipif("parquet" not in FORMS, reason="pyarrow is not installed")
def test_parquet_that_is_broken_is_refused(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    site.export(file, "--format", "parquet", *PARTS["day 4"])
    whole = file.read_bytes()
    for broken in (whole[:4], whole[:-9], whole[:200] + whole[220:], b"PAR1" + b"\0" * 40 + b"PAR1"):
        file.write_bytes(broken)
        found = site.verify(file)
        assert found.exit_code == 1 and isinstance(found.exception, ConfigError | SystemExit), found.exception
    # What is in it is proven as in any other form.
    file.write_bytes(whole)
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.parquet as parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    table = parquet.read_table(file)
    users = pyarrow.array(["nobody"] * len(table))
    for changed in (
        table.set_column(table.schema.get_field_index("db_user"), "db_user", users),
        table.slice(1),
        table.slice(0, len(table) - 1),
    ):
        parquet.write_table(changed, file)
        assert site.verify(file).exit_code == 1


def test_where_pyarrow_is_missing_it_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log.parquet"
    monkeypatch.setattr(forms, "has_parquet", lambda: False)
    command = ["audit", "export", str(file), "--dsn", site.dsn, "--config", str(site.keyless), "--format", "parquet"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError) and "secretproxy[parquet]" in str(done.exception)
    assert not file.exists()
    file.write_bytes(b"PAR1")
    done = site.verify(file)
    assert isinstance(done.exception, ConfigError) and "secretproxy[parquet]" in str(done.exception)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_back_what_was_logged(form: str, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 and NULs, as the log writes them; NULL and an empty text; both ends of every number."""
    mask = NameMask(200, (), b"k")
    texts = [
        None,
        "",
        "'",
        "=1",
        "\\N",
        "a\tb\r\nc",
        "\u2028\ufeff",
        "\U0001f511",
        "nul\0in",
        "\udcff\udc00 bytes",
        "masked:x",
        "x" * 150,
    ]
    lines = Lines(mask, uuid.UUID(int=9))
    file = rows_file("--format", form, NAMES_OF_ROWS)
    expected = []
    for number, text in enumerate(texts):
        name = None if text is None else mask(text)
        who = Identity(
            uuid.UUID(int=number),
            text or "u",
            "app",
            text,
            ipaddress.ip_address("::1" if number % 2 else "10.0.0.1"),
            65535,
            tls=bool(number % 2),
        )
        event = Event(
            "call", who, 2**63 - 1 - number, "f()" if number else "", "read", OWNERS[0], (text, None), via=(text,) if number else (), calls=0
        )  # fmt: skip
        line = lines.add(event, number * 10**15, 0.1 + number)
        row = row_of(line.stored())
        expected.append(line.row_hash)
        assert row["secret_names"] == [name, None]
        file.write(row)
    place = tmp_path / f"log.{form}"
    place.write_bytes(file.close())
    found = [
        (record["row_hash"], chain.link(bytes.fromhex(record["prev_hash"]), body))
        for _, record, body in exports.records(place)
    ]
    assert found == [(row_hash.hex(), row_hash) for row_hash in expected]


def row_of(stored: bytes) -> dict[str, Any]:
    """What a driver makes of a line of COPY."""
    row: dict[str, Any] = {}
    for name, cell in zip(STORED, stored.split(b"\t"), strict=True):
        kind = TYPES[name]
        text = None if cell == b"\\N" else _ESCAPES.sub(lambda found: _TEXTS[found[1]], cell.decode())
        value: Any = text
        if text is None:
            pass
        elif kind == "bytea":
            value = bytes.fromhex(text[2:])
        elif kind in ("int8", "int4"):
            value = int(text)
        elif kind == "float8":
            value = float(text)
        elif kind == "bool":
            value = text == "t"
        elif kind == "timestamptz":
            value = datetime.fromisoformat(text)
        elif kind == "text[]":
            value = elements(text)
        row[name] = value
    return {name: row[name] for name in NAMES_OF_ROWS}


_ESCAPES = re.compile(r"\\(.)", re.DOTALL)
_TEXTS = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}


def elements(text: str) -> list[str | None]:
    """What a text of an array has."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)', text, re.DOTALL)
    return [
        None if bare == "NULL" else bare or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for quoted, bare in found
    ]
