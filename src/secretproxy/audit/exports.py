"""Exports that can be proven: the manifest that is written beside one, and what a reader makes of both.

A manifest says of each chain which rows the export has, with the hashes at both ends, and of all rows in their order
one digest; it is signed with the checkpoint key where that is at hand. So a part of the log is proven as a part, and a
file that was cut is not taken for a whole. Reads files; needs no database.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import itertools
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature

from secretproxy.audit import chain, forms
from secretproxy.audit.checkpoints import Checkpoint, PublicKey, Signer, genuine
from secretproxy.audit.columns import ADDED, CHAINED, NAMES, TABLE, TYPES
from secretproxy.audit.filters import KINDS, Filter
from secretproxy.audit.review import access_of, outcome_of
from secretproxy.audit.verify import Report
from secretproxy.audit.visible import logged
from secretproxy.config import ConfigError

KIND = "secretproxy export"
SUFFIX = ".manifest.json"
# The form of texts from a log in SQL_ASCII, whose rows' hashes cover the bytes themselves.
VISIBLE = "visible"
# What the rows are, where a filter looked for how statements ended: accesses, each with the outcomes of its statement.
ACCESSES = "accesses"
# The checkpoints of these instances, in their order.
CHECKPOINTS = """
SELECT c.instance, c.seq, c.row_hash, c.at, c.signature, c.kind FROM ONLY secretproxy.checkpoints AS c
 WHERE c.instance OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.uuid[]) ORDER BY c.instance, c.seq
"""
# Texts that CSV cannot tell from NULL where they are empty.
_MAY_BE_EMPTY = tuple(column.name for column in TABLE if column.may_be_empty)
# What an export of before does not have: its rows had no such value.
_ADDED = dict.fromkeys(column.name for column in ADDED)
# What a column of an export is read as, so that it is not read as something else that is written alike.
_READ_AS: dict[str, Any] = {"text": str, "text[]": list, "int8": int, "int4": int, "bool": bool}
# The apostrophes that keep a spreadsheet from running a text (see cli/audit/showing.py).
_QUOTED = re.compile(r"(^|[;,|\t\r\n])(\s*)'(?=[=+\-@\t\r'\uff1d\uff0b\uff0d\uff20])")
_HASHES = ("prev_hash", "row_hash")
# A file beside an export.
_BESIDE = re.compile(r"[A-Za-z][A-Za-z0-9-]*\.[a-z]+")
Record = dict[str, Any]


def value_of(name: str, value: Any) -> Any:
    """Converts a column of an export to the value that was logged. Raises ValueError."""
    if value is None:
        return None
    kind = TYPES[name]
    if kind in _READ_AS and type(value) is not _READ_AS[kind]:
        raise ValueError(name)
    if kind == "timestamptz":
        return value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if kind == "uuid":
        return uuid.UUID(str(value))
    if kind == "float8":
        return float(value)
    return value


def body_of(record: Record) -> bytes:
    """Gives the line that a row's hash covers. Raises KeyError, TypeError, ValueError."""
    return chain.covered(chain.encode([value_of(name, record[name]) for name in CHAINED]))


def logged_body(record: Record) -> bytes:
    """Gives the same for a row whose texts are in their visible form."""
    texts = {name: logged(record[name]) for name in CHAINED if TYPES[name] in ("text", "text[]")}
    return body_of(record | texts)


def is_direct(record: Record) -> bool:
    return record["event"] == "direct" and record["instance"] is None and record["seq"] is None


@dataclass(slots=True)
class Chain:
    """The rows of an instance that an export has."""

    instance: str
    count: int = 0
    first_seq: int = 0
    first_prev_hash: str = ""
    last_seq: int = 0
    last_row_hash: str = ""
    # How often rows of the chain are left out between two that are there.
    gaps: int = 0
    checkpoints: list[dict[str, Any]] = field(default_factory=list)


class ExportTally:
    """Takes the rows of an export in their order and says what a manifest says of them."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.rows = self.direct = 0
        self._digest = hashlib.sha256()
        # The column id is in no chain and no hash of a row.
        self._ids = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def ids(self) -> str:
        return self._ids.hexdigest()

    def take(self, record: Record, body: bytes) -> None:
        """Takes a row as an export has it, with its line."""
        found = self._add(record, uuid.UUID(str(record["id"])).bytes, body)
        if found is not None:
            found.last_row_hash = record["row_hash"] or ""
            if found.count == 1:
                found.first_prev_hash = record["prev_hash"] or ""

    def take_row(self, row: Any, body: bytes) -> None:
        """Takes a row of the log, with its line."""
        found = self._add(row, row["id"].bytes, body)
        if found is not None:
            found.last_row_hash = (row["row_hash"] or b"").hex()
            if found.count == 1:
                found.first_prev_hash = (row["prev_hash"] or b"").hex()

    def _add(self, row: Any, own: bytes, body: bytes) -> Chain | None:
        """Counts a row with this id and line in; gives the chain that it is of, None if of none."""
        self.rows += 1
        instance, seq = row["instance"], row["seq"]
        if instance is None and seq is None and is_direct(row):
            self.direct += 1
            # An empty text is NULL in CSV.
            body = b"\t".join([part or b"\\N" for part in body.split(b"\t")])
        self._digest.update(body + b"\n")
        self._ids.update(own)
        if instance is None or seq is None:
            return None
        name, seq = str(instance), int(seq)
        found = self.chains.get(name)
        if found is None:
            found = self.chains[name] = Chain(name, 0, seq)
        elif seq != found.last_seq + 1:
            found.gaps += 1
        found.count += 1
        found.last_seq = seq
        return found

    def manifest(
        self, filters: dict[str, str], form: str, made_at: datetime, checkpoints: list[Checkpoint]
    ) -> dict[str, Any]:
        """Makes the manifest of an export. `checkpoints`: those of the log, in their order.

        The manifest gets the last checkpoint of each chain whose row the export has.
        """
        for checkpoint in checkpoints:
            covered = self.chains.get(str(checkpoint.instance))
            if covered is not None and covered.first_seq - 1 <= checkpoint.seq <= covered.last_seq:
                covered.checkpoints[:] = [json.loads(checkpoint.line())]
        chains = [{name: getattr(one, name) for name in Chain.__slots__} for one in self.chains.values()]
        return {
            "kind": KIND, "version": 1, "made_at": made_at.isoformat(), "format": form, "filters": filters,
            "rows": self.rows,
            "direct": self.direct, "digest": self.digest, "ids": self.ids, "chains": chains,
        }  # fmt: skip


def _signed_text(manifest: dict[str, Any]) -> bytes:
    bare = {name: value for name, value in manifest.items() if name != "signature"}
    return f"{KIND} 1 ".encode() + json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()


def sign(manifest: dict[str, Any], signer: Signer) -> None:
    manifest["signature"] = base64.b64encode(signer.sign_text(_signed_text(manifest))).decode()


def manifest_file(export: Path) -> Path:
    """Gives the default place of an export's manifest."""
    return export.with_name(export.name + SUFFIX)


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises ConfigError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
        if found["kind"] != KIND or not isinstance(found["chains"], list):
            raise ValueError
        return dict(found)
    except OSError as error:
        raise ConfigError(f"--manifest {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"--manifest {path}: not the manifest of an export") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON. Raises ValueError for a name that comes twice: other readers take the other value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _whole(record: Record) -> Record:
    """Gives a row with the columns that an export of before does not have. Raises ValueError for one that no export
    has: whoever reads it would take it for proven."""
    found = _ADDED | record
    if found.keys() != set(NAMES):
        raise ValueError("columns")
    return found


def with_logged_texts(rows: Iterator[tuple[int, Record, bytes]]) -> Iterator[tuple[int, Record, bytes]]:
    """Gives rows whose texts are in their visible form, each with the line that its hash covers."""
    for number, record, _ in rows:
        yield number, record, logged_body(record)


def records(path: Path) -> Iterator[tuple[int, Record, bytes]]:
    """Reads the rows of an export in any format, each with its number and line. Raises ConfigError, OSError."""
    with path.open("rb") as file:
        head = file.read(4)
    reader = _parquet if head == b"PAR1" else _csv if head.startswith(b"id,") else _jsonl
    number = 0
    try:
        for number, (record, body) in enumerate(reader(path), 1):
            yield number, record, body
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error):
        raise ConfigError(
            f"--file {path}: row {number + 1} is not a row of `audit export`: {'/'.join(NAMES[:3])} ..."
        ) from None


def _jsonl(path: Path) -> Iterator[tuple[Record, bytes]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                record = _whole(json.loads(line, object_pairs_hook=_object))
                yield record, body_of(record)


def _csv(path: Path) -> Iterator[tuple[Record, bytes]]:
    """Chooses, of the values that a cell may stand for, the one that matches the row's hash."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if len(set(reader.fieldnames or ())) != len(reader.fieldnames or ()):
            raise ValueError("columns")
        for cells in reader:
            if cells.keys() | _ADDED.keys() != set(NAMES) or None in cells.values():
                raise ValueError("columns")
            tried = [_of_cells(cells, quoted) for quoted in (True, False)]
            for record in itertools.chain.from_iterable(map(_with_blanks, tried)):
                body = body_of(record)
                if is_direct(record) or _fits(record, body) or _fits(record, logged_body(record)):
                    break
            else:
                record, body = tried[0], body_of(tried[0])
            yield record, body


def _of_cells(cells: dict[str, str], quoted: bool) -> Record:
    record: Record = dict(_ADDED)
    for name, cell in cells.items():
        text = _QUOTED.sub(r"\1\2", cell) if quoted else cell
        kind = TYPES.get(name)
        if text == "":
            record[name] = None
        elif kind == "text[]":
            record[name] = json.loads(text)
        elif kind in ("int8", "int4"):
            record[name] = int(text)
        elif kind == "bool":
            record[name] = {"True": True, "False": False}[text]
        else:
            record[name] = text
    return record


def _with_blanks(record: Record) -> Iterator[Record]:
    blank = [name for name in _MAY_BE_EMPTY if record[name] is None]
    for count in range(len(blank) + 1):
        for names in itertools.combinations(blank, count):
            yield record | dict.fromkeys(names, "")


def _parquet(path: Path) -> Iterator[tuple[Record, bytes]]:
    if not forms.has_parquet():
        raise ConfigError(f"--file: {forms.MISSING}")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if len(set(file.schema_arrow.names)) != len(file.schema_arrow.names):
                raise ValueError("columns")
            for batch in file.iter_batches(forms.GROUP):
                for row in batch.to_pylist():
                    hashes = {name: None if row[name] is None else row[name].hex() for name in _HASHES}
                    record = _whole(row | hashes)
                    yield record, body_of(record)
    except pyarrow.ArrowException:
        raise ValueError("parquet") from None


def _fits(record: Record, body: bytes) -> bool:
    try:
        before = bytes.fromhex(record["prev_hash"] or "")
    except ValueError:
        return False
    return chain.link(before, body).hex() == str(record["row_hash"])


@dataclass(slots=True)
class Proof:
    """The findings of an export's verification, and in words what it proved and what not."""

    report: Report
    words: list[str] = field(default_factory=list)


def verify_part(
    rows: Iterator[tuple[int, Record, bytes]],
    manifest: dict[str, Any],
    outside: list[Checkpoint],
    key: PublicKey | None,
    folder: Path | None = None,
) -> Proof:
    """Verifies an export against its manifest. `folder`: where the other files that it names are.

    Raises ConfigError, OSError.
    """
    # Long because its checks fill one report, in the order in which they rest on each other.
    report = Report()
    if folder is not None:
        _verify_files(manifest, folder, report)
    signed = False
    if key is not None and "signature" in manifest:
        try:
            key.verify(base64.b64decode(str(manifest["signature"])), _signed_text(manifest))
            signed = True
        except (InvalidSignature, ValueError):
            report.add("-", None, "manifest", "the signature of the manifest is wrong")
    checks = _checks(manifest, outside, key, report)
    visible = manifest.get("texts") == VISIBLE
    matching = Matching.of(manifest)
    tally = ExportTally()
    last: dict[str, tuple[int, str]] = {}
    past_at: dict[str, str] = {}
    for _, record, body in rows:
        tally.take(record, body)
        if matching is not None:
            matching.take(record)
        if is_direct(record):
            continue
        name, seq = str(record["instance"]), record["seq"]
        if record["instance"] is None or seq is None:
            report.add("-", None, "inserted", "a row that is not marked direct belongs to no chain")
            continue
        if not _fits(record, logged_body(record) if visible else body):
            report.add(name, seq, "changed", "a column of this row was changed: its hash does not fit")
        before = last.get(name)
        if before is not None and seq <= before[0]:
            report.add(name, seq, "reordered", "a row that comes twice, or not in its order")
        elif before is not None and seq == before[0] + 1 and record["prev_hash"] != before[1]:
            report.add(name, seq, "changed", "this row continues another chain than the row before it")
        if checks.get(name, {}).get(seq, record["row_hash"]) != record["row_hash"]:
            report.add(name, seq, "changed", "the hash is not the one that a checkpoint signed")
        last[name] = (seq, record["row_hash"] or "")
        at = str(record["at"])
        report.steps_back += name in past_at and at < past_at[name]
        past_at[name] = at
    report.rows, report.direct, report.instances = tally.rows - tally.direct, tally.direct, len(tally.chains)
    report.checkpoints = sum(map(len, checks.values()))
    _compare(tally, manifest, report)
    if matching is not None:
        matching.end(report)
    for name, found in tally.chains.items():
        covered = max((seq for seq in checks.get(name, {}) if seq <= found.last_seq), default=0)
        report.unsigned += found.last_seq - max(found.first_seq - 1, covered)
    return Proof(report, _words(manifest, tally, report, signed, key) + ([] if matching is None else matching.words()))


class Matching:
    """Whether the accesses of an export match the filter that its manifest names, by what its own rows say.

    An access is decided by its own row, or by the first outcome of its statement, and forgotten then: only what has not
    ended is kept."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._open: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
        self._accesses = self._without = 0
        self._others: list[dict[str, Any]] = []

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Matching | None:
        """Gives the check of a manifest; None if its rows are not accesses. Raises ConfigError."""
        if manifest.get("of") != ACCESSES:
            return None
        try:
            given: dict[str, Any] = dict(manifest["filters"])
            for name in ("since", "until"):
                if name in given:
                    given[name] = datetime.fromisoformat(given[name])
            given["outcome"] = tuple(part for part in given.get("outcome", "").split(",") if part)
            wanted = Filter(**given, encoding=str(manifest["encoding"]))
            wanted.conditions()
        except (KeyError, TypeError, ValueError, AttributeError, LookupError, ConfigError):
            raise ConfigError("--manifest: it names a filter that this version does not know") from None
        return cls(wanted)

    def take(self, record: Record) -> None:
        """Takes a row of the export."""
        row = {name: value_of(name, record[name]) for name in NAMES}
        place = (row["session_id"], row["statement_no"])
        if row["event"] == "outcome":
            left = []
            for one in self._open.pop(place, []):
                ended = {place: [row]}
                if outcome_of(one, one["event"], ended):
                    self._decide(one, access_of(one, ended))
                else:
                    left.append(one)
            if left:
                self._open[place] = left
        elif row["event"] not in KINDS:
            self._others.append(row)
        elif row["event"] in ("access", "direct") and self._wanted.fits(access_of(row, {})):
            self._accesses += 1
        else:
            self._open.setdefault(place, []).append(row)

    def _decide(self, row: dict[str, Any], access: dict[str, Any]) -> None:
        self._accesses += 1
        self._without += access["outcome"] == "unknown"
        if not self._wanted.fits(access):
            self._others.append(row)

    def end(self, report: Report) -> None:
        """Decides what has no outcome here, and reports what does not match."""
        for rows in self._open.values():
            for row in rows:
                self._decide(row, access_of(row, {}))
        self._open.clear()
        for row in self._others:
            name = "-" if row["instance"] is None else str(row["instance"])
            report.add(name, row["seq"], "inserted", "this row does not match the filter that the manifest names")

    def words(self) -> list[str]:
        """Says what this shows and what not."""
        if self._others:
            return []
        words = [
            f"proven: each of the {self._accesses:,} accesses in the file matches these filters, by the rows that the "
            "file has of it",
            "not proven: that no other access matched. What the filters left out does not show; to prove that, export "
            "the whole time, without outcome, jwt_user, role, sqlstate, calls and duration",
        ]
        if self._without:
            words.append(
                f"not proven: that the {self._without:,} accesses without an outcome had none; the file only lacks it"
            )
        return words


def _verify_files(manifest: dict[str, Any], folder: Path, report: Report) -> None:
    """Verifies the files that a manifest names beside the rows: those of an archive of evidence.

    A name that leads out of the folder is none of ours, and is not opened.
    """
    files = manifest.get("files", {})
    if not isinstance(files, dict):
        report.add("-", None, "manifest", "what stands for files in the manifest is none")
        return
    for name, digest in files.items():
        if not _BESIDE.fullmatch(name):
            report.add("-", None, "manifest", "the manifest names a file that is not beside it")
        elif not (folder / name).is_file():
            report.add("-", None, "missing", f"{name}: the manifest names it, and it is not here")
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            report.add("-", None, "changed", f"{name}: not the file that the manifest was made of")


def _checks(
    manifest: dict[str, Any], outside: list[Checkpoint], key: PublicKey | None, report: Report
) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    inside: list[Checkpoint] = []
    try:
        inside = [Checkpoint.read(json.dumps(one)) for part in manifest["chains"] for one in part["checkpoints"]]
    except (ValueError, KeyError, TypeError):
        report.add("-", None, "manifest", "what stands for checkpoints in the manifest is none")
    for checkpoint in [*inside, *outside]:
        if key is not None and not genuine(checkpoint, key):
            report.add(checkpoint.instance, checkpoint.seq, "checkpoint", "the signature of a checkpoint is wrong")
            continue
        known = found.setdefault(str(checkpoint.instance), {})
        if known.setdefault(checkpoint.seq, checkpoint.row_hash.hex()) != checkpoint.row_hash.hex():
            report.add(checkpoint.instance, checkpoint.seq, "two writers", "two checkpoints of one row differ")
    return found


def _compare(tally: ExportTally, manifest: dict[str, Any], report: Report) -> None:
    by_instance = {str(one.get("instance")): one for one in manifest["chains"]}
    for name, one in by_instance.items():
        found = tally.chains.get(name)
        if found is None:
            report.add(
                name,
                one.get("first_seq"),
                "truncated",
                f"the manifest counts {one.get('count')} rows, the file has none",
            )
        elif found.first_seq != one.get("first_seq"):
            report.add(
                name,
                one.get("first_seq"),
                "missing",
                f"the file begins at row {found.first_seq}, not {one.get('first_seq')}",
            )
        elif found.last_seq < int(one.get("last_seq") or 0):
            text = f"the file was cut: it ends at row {found.last_seq}, not {one.get('last_seq')}"
            report.add(name, found.last_seq + 1, "truncated", text)
        elif found.last_seq > int(one.get("last_seq") or 0):
            report.add(
                name, int(one.get("last_seq") or 0) + 1, "inserted", "the file has more rows than its manifest says"
            )
        elif found.count != one.get("count") or found.gaps != one.get("gaps"):
            report.add(
                name,
                None,
                "missing",
                f"the manifest counts {one.get('count')} rows of this chain, the file has {found.count}",
            )
        elif (found.first_prev_hash, found.last_row_hash) != (one.get("first_prev_hash"), one.get("last_row_hash")):
            report.add(name, found.last_seq, "changed", "the hashes at the ends are not those of the manifest")
    for name in tally.chains.keys() - by_instance.keys():
        report.add(name, None, "inserted", "a chain that the manifest does not name")
    if tally.direct != manifest.get("direct"):
        report.add(
            "-",
            None,
            "truncated",
            f"the manifest counts {manifest.get('direct')} direct calls, the file has {tally.direct}",
        )
    if not report.findings and (tally.digest != manifest.get("digest") or tally.rows != manifest.get("rows")):
        report.add("-", None, "changed", "the rows are not those that the manifest was made of")
    if not report.findings and tally.ids != manifest.get("ids", tally.ids):
        report.add("-", None, "changed", "the column id is not that of the rows that the manifest was made of")


def _words(
    manifest: dict[str, Any], tally: ExportTally, report: Report, signed: bool, key: PublicKey | None
) -> list[str]:
    filters = manifest.get("filters") or {}
    what = ", ".join(f"{name} {value}" for name, value in filters.items()) or "everything"
    words = [f"an export of {what}, made at {manifest.get('made_at')}"]
    if not report.sound:
        return words
    gaps = sum(found.gaps for found in tally.chains.values())
    if signed:
        words.append("proven: the file is whole and unaltered since whoever has the checkpoint key exported it")
    elif key is None:
        words.append(
            "not proven: no public key was given, so whoever changed the file could have changed its manifest too"
        )
    else:
        words.append(
            "not proven: the manifest is not signed, so that the file is whole cannot be told; export with the "
            "checkpoint key at hand"
        )
    if key is not None and report.unsigned < report.rows:
        words.append(
            "proven: rows up to the last checkpoint of their chain are those that their proxy wrote, as far as they "
            "stand without a gap"
        )
    if gaps:
        words.append(f"not proven: what stood in {gaps} gaps between rows, which the filter left out")
    begins = sum(found.first_seq > 1 for found in tally.chains.values())
    if begins:
        words.append(f"not proven: rows before the first of {begins} chains, which the export does not have")
    words.append("not proven: that nothing was written after the last row of a chain")
    if tally.direct:
        words.append(
            "direct calls stand outside the chains: they are as the log had them at the export, which itself vouches "
            "for none"
        )
    return words
