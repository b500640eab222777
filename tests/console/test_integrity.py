"""Checks that chains are drawn as the log has them, gaps are named to the row, and the evidence of a month is verified
offline with the public key alone."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from secretproxy.audit import chain as hashing
from secretproxy.audit import chains, evidence, exporting, exports, subjects
from secretproxy.audit.checkpoints import END, Signer, load_public, pem
from secretproxy.audit.columns import STORED
from secretproxy.audit.filters import Filter
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Lines
from secretproxy.cli.app import app
from secretproxy.config import ConfigError
from secretproxy.console import charts
from secretproxy.session.events import Event, Identity
from tests.conftest import Backend
from tests.console.conftest import MARKUP, settings_of
from tests.support.console import Browser, ConsoleSite

NOW = datetime.now(UTC)
# A month of its own, with rows of two chains.
MONTH = "2025-03"
_CHECKPOINT = (
    "INSERT INTO secretproxy.checkpoints (instance, seq, row_hash, at, signature, kind) VALUES (%s, %s, %s, %s, %s, %s)"
)


@dataclass
class Made:
    """A chain that a test wrote."""

    instance: str
    rows: int


def write(
    sql: psycopg.Connection, signer: Signer, start: datetime, rows: int, signed: int | None, *, lost: int = 0, kind: str = "checkpoint"
) -> Made:  # fmt: skip
    """Writes a chain, a row a minute, with a checkpoint of row `signed`, without row `lost`."""
    instance = uuid.uuid4()
    lines = Lines(NameMask(200, (), b"k"), instance)
    with sql.cursor().copy(f"COPY secretproxy.access_log ({', '.join(STORED)}) FROM STDIN") as copy:
        hashes = [hashing.GENESIS]
        for number in range(1, rows + 1):
            who = Identity(uuid.uuid4(), "chained", "app", "=cmd()")
            at = start + timedelta(minutes=number)
            line = lines.add(
                Event("call", who, number, "f()", "read", uuid.UUID(int=7), (MARKUP, None)),
                round(at.timestamp() * 1e6), 0.5,
            )  # fmt: skip
            hashes.append(line.row_hash)
            if number != lost:
                copy.write(line.stored() + b"\n")
    if signed is not None:
        one = signer.sign(instance, signed, hashes[signed], kind, start + timedelta(minutes=rows))
        sql.execute(_CHECKPOINT, (one.instance, one.seq, one.row_hash, one.at, one.signature, one.kind))
    return Made(str(instance), rows)


@pytest.fixture(scope="module")
def signer(postgres: Backend, site: ConsoleSite) -> Signer:
    key_file = settings_of(postgres).audit.checkpoint_key_file
    assert key_file is not None
    return Signer(key_file)


@pytest.fixture(scope="module")
def made(postgres: Backend, signer: Signer) -> Iterator[dict[str, Made]]:
    """Writes chains in each state, which are taken away again: other tests verify this log as well."""
    start = NOW - timedelta(days=2)
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        found = {
            "ended": write(sql, signer, start, 5, 5, kind=END),
            "quiet": write(sql, signer, start, 4, 4),
            "broken off": write(sql, signer, start, 9, 3),
            "running": write(sql, signer, datetime.now(UTC) - timedelta(minutes=3), 3, 2),
            "unsigned": write(sql, signer, start, 3, None),
            "begins late": write(sql, signer, start, 3, 3, lost=1),
            "wrong": write(sql, signer, start, 3, 2, kind=END),
            "gap": write(sql, signer, start, 6, 6, lost=4),
            "month": write(sql, signer, datetime(2025, 2, 28, 23, 57, tzinfo=UTC), 12, 12, kind=END),
        }
        try:
            yield found
        finally:
            instances = [uuid.UUID(one.instance) for one in found.values()]
            sql.execute("SET session_replication_role = replica")
            for table in ("access_log", "checkpoints"):
                sql.execute(f"DELETE FROM secretproxy.{table} WHERE instance = ANY (%s)", (instances,))


def chains_table(text: str) -> dict[str, list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text.partition('id="chains"')[2].partition("</table>")[0], re.DOTALL)[1:]
    return {
        re.search(r'<code title="([^"]*)"', row)[1]: [  # type: ignore[index]
            re.sub("<[^>]*>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        ]
        for row in rows
    }


def test_each_chain_is_on_the_time_line_with_its_state(auditor: Browser, made: dict[str, Made]) -> None:
    text = auditor.get("/integrity", {"span": "7d"}).text
    shown = chains_table(text)
    for state, one in made.items():
        if state == "month":
            # Older than the span.
            assert one.instance not in shown
            continue
        assert shown[one.instance][-1] == {"gap": "quiet"}.get(state, state), state
        assert html.escape(chains.MEANING[shown[one.instance][-1]]).replace("&#x27;", "&#39;") in text
        drawn = re.search(rf"<title>{one.instance}: rows [^<]*</title>", text)
        assert drawn is not None and drawn[0].endswith(f"{shown[one.instance][-1]}</title>")
    assert shown[made["broken off"].instance][6] == "6" and "signature right" in shown[made["quiet"].instance][5]
    assert text.count('class="mark"') >= 6 and 'class="shut"' in text and 'class="open"' in text


def test_a_checkpoint_that_nobody_signed_is_wrong(auditor: Browser, made: dict[str, Made], postgres: Backend, tmp_path: Path) -> None:  # fmt: skip
    one = Signer(tmp_path / "other.pem").sign(uuid.UUID(made["unsigned"].instance), 3, b"\0" * 32)
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute(_CHECKPOINT, (one.instance, one.seq, one.row_hash, one.at, one.signature, one.kind))
        try:
            assert chains_table(auditor.get("/integrity").text)[str(one.instance)][-1] == "wrong"
        finally:
            sql.execute("SET session_replication_role = replica")
            sql.execute("DELETE FROM secretproxy.checkpoints WHERE instance = %s", (one.instance,))


def verified(auditor: Browser) -> str:
    assert auditor.send("POST", "/integrity/verify", {"csrf": auditor.csrf()}).location == "/integrity"
    while 'http-equiv="refresh"' in (text := auditor.get("/integrity").text):
        assert "<progress" in text or 'id="damages"' in text
    return text


def test_gaps_are_named_to_the_row_and_drawn(auditor: Browser, made: dict[str, Made]) -> None:
    text = verified(auditor)
    table = text.partition('id="damages"')[2].partition("</table>")[0]
    row = next(row for row in table.split("<tr>") if made["gap"].instance in row)
    assert ">missing<" in row and "row 4 is missing" in row and "row 3, <time" in row and "row 5, <time" in row
    assert "missing at row 4: row 4 is missing</title>" in text and 'class="gap"' in text
    row = next(row for row in table.split("<tr>") if made["begins late"].instance in row)
    assert "row 1 is missing" in row and "row 2, <time" in row


def test_what_is_drawn_is_text_alone() -> None:
    """An instance is a uuid and a damage our own words, but a chart trusts nobody."""
    line = charts.Line(MARKUP, MARKUP, MARKUP, -1, 2, False, [(5, MARKUP)], [(-5, MARKUP)])
    drawn = charts.lines(MARKUP, [MARKUP], [line])
    assert "<script" not in drawn and "<img" not in drawn and drawn.count("&lt;script&gt;") == 8
    assert not re.search(r'(?:x|width)="-', drawn)


@pytest.mark.parametrize("state", [*chains.MEANING])
def test_a_state_is_one_that_is_explained(state: str) -> None:
    at = NOW - timedelta(days=1)
    one = chains.Chain(uuid.uuid4(), False, 1, at, 9, at, covered=9)
    changes: dict[str, dict[str, object]] = {
        "ended": {"end": 9}, "running": {"covered": 8, "last": NOW}, "quiet": {}, "broken off": {"covered": 8}, "unsigned": {"covered": None},
        "begins late": {"first_seq": 5, "removed": 3}, "wrong": {"covered": 10},
    }  # fmt: skip
    for name, value in changes[state].items():
        setattr(one, name, value)
    assert one.state(NOW, 60) == state
    one.removed = one.first_seq - 1
    assert one.state(NOW, 60) == ("quiet" if state == "begins late" else state)


# --- evidence ---------------------------------------------------------------------------------------------------------


def unpacked(body: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(
            f"evidence-{MONTH}/{name}"
            for name in ("log.jsonl", "log.jsonl.manifest.json", "checkpoint.pub", "verification.json", "README.txt")
        )
        archive.extractall(folder)
    return folder / f"evidence-{MONTH}"


def offline(folder: Path) -> Result:
    """The archive verifies as its README says: in the folder, without a configuration or a database."""
    said = (folder / "README.txt").read_text()
    command = re.search(r"^ +secretproxy (.*)$", said, re.MULTILINE)[1].split()  # type: ignore[index]
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(app, command)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def archive(site: ConsoleSite, made: dict[str, Made]) -> bytes:
    browser = site.browser()
    assert browser.sign_in("console_colleague").status == 303
    answer = browser.get("/integrity/evidence", {"month": MONTH})
    assert answer.status == 200 and answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="evidence-{MONTH}.zip"'
    return answer.body


def test_the_evidence_of_a_month_is_verified_offline(
    archive: bytes, made: dict[str, Made], postgres: Backend, signer: Signer, tmp_path: Path
) -> None:
    folder = unpacked(archive, tmp_path)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    # Of the chain that began in February, the rows of March.
    assert [row["seq"] for row in rows if row["instance"] == made["month"].instance] == [*range(3, 13)]
    assert all(row["at"].startswith("2025-03-01") for row in rows)
    found = offline(folder)
    assert found.exit_code == 0, found.output
    assert "proven: the file is whole" in found.output and "proven: rows up to the last checkpoint" in found.output
    report = json.loads((folder / "verification.json").read_text())
    # The log has gaps by now, and the evidence says so.
    assert report["sound"] is False and report["signatures_checked"] and report["read_as"] == "console_colleague"
    said = (folder / "README.txt").read_text()
    assert "THE LOG WAS ALTERED" in said and evidence.fingerprint(signer.public) in said
    assert max(map(len, said.splitlines())) <= 120
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        looked = "SELECT via FROM secretproxy.access_log WHERE function = 'evidence' AND db_user = 'console_colleague'"
        assert sql.execute(looked).fetchall() == [(["month", MONTH],)]


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.manifest.json", "verification.json", "README.txt"])
def test_evidence_that_was_changed_is_named(archive: bytes, tmp_path: Path, name: str) -> None:
    folder = unpacked(archive, tmp_path)
    before = (folder / name).read_text()
    for old, new in (
        ("chained", "nobody"),
        ("THE LOG WAS ALTERED", "The log is sound"),
        ('"sound": false', '"sound": true'),
        ('"rows"', '"Rows"'),
    ):
        if old in before:
            (folder / name).write_text(before.replace(old, new, 1))
            break
    found = offline(folder)
    assert found.exit_code in (1, 2) and "proven: the file is whole" not in found.output, found.output


@pytest.mark.parametrize("name", ["../log.jsonl", "/etc/passwd", "..", "", "a/b.txt", "con\0.txt"])
def test_a_manifest_leads_to_no_other_file(archive: bytes, tmp_path: Path, name: str) -> None:
    folder = unpacked(archive, tmp_path)
    beside = folder / "log.jsonl.manifest.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"files": {name: "0" * 64}}))
    found = offline(folder)
    assert found.exit_code == 1 and "names a file that is not beside it" in found.output


def test_no_month_is_refused(auditor: Browser) -> None:
    for month in (
        "",
        "2025-3",
        "2025-13",
        "0000-01",
        "2025-00",
        "../../x",
        "2025-03\r\nSet-Cookie: a=b",
        '2025-03"',
        "9999-12",
        f"{NOW.year + 1}-01",
        "２０２５-03",
    ):
        answer = auditor.get("/integrity/evidence", {"month": month})
        assert answer.status == 400 and "set-cookie" not in answer.headers, month
        assert "month" in answer.text


def test_months_are_whole() -> None:
    december = evidence.Month.read("--month", "2024-12")
    assert (december.since, december.until) == (datetime(2024, 12, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    assert str(december) == "2024-12"
    with pytest.raises(ConfigError):
        evidence.Month.read("--month", "9999-12")


def test_the_command_makes_the_same(
    postgres: Backend, archive: bytes, signer: Signer, tmp_path: Path, made: dict[str, Made]
) -> None:
    config, to = tmp_path / "secretproxy.toml", tmp_path / "evidence.zip"
    key_file = postgres.key_file.with_name("console.pem")
    config.write_text(
        f'[audit]\nreview_dsn = "{postgres.dsn("auditor")}"\ncheckpoint_key_file = "{key_file}"\n'
        f'[testimony]\nkey_file = "{postgres.key_file}"\n'
    )
    command = ["audit", "evidence", "--month", MONTH, "--to", str(to), "--config", str(config)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "damages of the log" in done.output, done.output
    assert to.stat().st_mode & 0o077 == 0
    folder = unpacked(to.read_bytes(), tmp_path)
    assert offline(folder).exit_code == 0
    (tmp_path / "console").mkdir()
    assert (folder / "log.jsonl").read_bytes() == (unpacked(archive, tmp_path / "console") / "log.jsonl").read_bytes()
    # What is there is not overwritten, and what could not be made is not left behind.
    before = to.read_bytes()
    assert isinstance(CliRunner().invoke(app, command).exception, ConfigError) and to.read_bytes() == before
    for wrong in (["--dsn", postgres.dsn("nobody_at_all")], ["--to", str(tmp_path / "no" / "x.zip")], ["--month", "x"]):
        other = tmp_path / "other.zip"
        assert isinstance(CliRunner().invoke(app, [*command, "--to", str(other), *wrong]).exception, ConfigError)
        assert not other.exists()


def test_a_month_with_a_rotation_of_the_key_is_verified_offline(
    postgres: Backend, site: ConsoleSite, tmp_path: Path
) -> None:
    """To rotate the key is to put it away: the next one is made, and its public half is put before the earlier ones.
    The archive has them all, and each signs a chain of the month."""
    key_file, keys = tmp_path / "rotated.pem", []
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        made = []
        for day, kind in ((3, END), (14, "checkpoint"), (25, END)):
            signer = Signer(key_file)
            keys.insert(0, signer.public)
            made.append(write(sql, signer, datetime(2024, 7, day, tzinfo=UTC), 4, 4, kind=kind))
            key_file.rename(tmp_path / f"{day}.pem")
        (tmp_path / "25.pem").rename(key_file)
        try:
            config = tmp_path / "secretproxy.toml"
            config.write_text(
                f'[audit]\nreview_dsn = "{postgres.dsn("auditor")}"\ncheckpoint_key_file = "{key_file}"\n'
            )
            to = tmp_path / "evidence.zip"
            CliRunner().invoke(
                app, ["audit", "evidence", "--month", "2024-07", "--to", str(to), "--config", str(config)]
            )
        finally:
            instances = [uuid.UUID(one.instance) for one in made]
            sql.execute("SET session_replication_role = replica")
            for table in ("access_log", "checkpoints"):
                sql.execute(f"DELETE FROM secretproxy.{table} WHERE instance = ANY (%s)", (instances,))
    with zipfile.ZipFile(to) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "evidence-2024-07"
    named = {one["instance"] for one in json.loads((folder / "verification.json").read_text())["findings"]}
    assert not named & {one.instance for one in made}
    assert load_public(folder / "checkpoint.pub").keys == tuple(keys)
    said = (folder / "README.txt").read_text()
    assert all(evidence.fingerprint(key) in said for key in keys)
    found = offline(folder)
    assert found.exit_code == 0 and "proven: the file is whole" in found.output, found.output
    # No key of the three is there for nothing.
    command = ["audit", "verify", "--file", str(folder / "log.jsonl"), "--public-key"]
    for left_out in range(3):
        some = tmp_path / f"some-{left_out}.pub"
        some.write_bytes(b"".join(pem(key) for place, key in enumerate(keys) if place != left_out))
        assert CliRunner().invoke(app, [*command, str(some)]).exit_code == 1


@pytest.mark.parametrize("text", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_of_public_keys_is_read_whole_or_not_at_all(tmp_path: Path, text: bytes) -> None:
    one, other = (Signer(tmp_path / name) for name in ("one.pem", "other.pem"))
    file = tmp_path / "keys.pub"
    file.write_bytes(
        b"the first\r\n" + pem(one.public).replace(b"\n", b"\r\n") + b"\n\nthe second\n" + pem(other.public)
    )
    assert load_public(file).keys == (one.public, other.public)
    file.write_bytes((pem(one.public) + text) if b"BEGIN" in text else text)
    with pytest.raises(ConfigError, match="not a PEM public key"):
        load_public(file)


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "a\n=1", "\uff1d1", "'=1"])
def test_a_spreadsheet_runs_nothing_of_an_incident(text: str) -> None:
    one = subjects.Touched(uuid.UUID(int=7), text, Counter(), NOW, NOW, None, [text], NOW, text)
    found = subjects.Incident(Filter(user=text, since=NOW), [one])
    (row,) = csv.DictReader(io.StringIO(evidence.rotation_list(found, "csv"), newline=""))
    for name in ("secret", "last_writer"):
        assert row[name].replace("'", "") == text.replace("'", "")
        assert not re.search(r"(^|\n)\s*[=+\-@\uff1d]", row[name])
    assert json.loads(evidence.rotation_list(found, "jsonl"))["secret"] == text
    # What a README says is escaped, a line alone.
    assert all(line.isprintable() and line.isascii() for line in found.words())


class InBytes:
    """A connection to a log in SQL_ASCII, whose rows are dicts: their keys are not their values."""

    def __init__(self, row: dict[str, object]) -> None:
        self.row = row

    async def fetch(self, query: str, *values: object) -> list[dict[str, object]]:
        return [self.row]


async def test_a_log_in_bytes_has_checkpoints_too(signer: Signer) -> None:
    one = signer.sign(uuid.uuid4(), 1, b"a")
    names = ("instance", "seq", "row_hash", "at", "signature", "kind")
    tally = exports.ExportTally()
    tally.chains[str(one.instance)] = exports.Chain(str(one.instance), 1, 1, "", 1)
    row = {name: getattr(one, name) for name in names}
    told = await exporting.manifest_of(InBytes(row), tally, {}, "jsonl", NOW, None)
    assert [part["row_hash"] for part in told["chains"][0]["checkpoints"]] == [b"a".hex()]
