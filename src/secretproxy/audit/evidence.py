"""Makes archives that prove what they say, and say how: the evidence of a month with the report of a verification of
the whole log, and what to rotate after an incident. Each has rows of the log, their signed manifest and the public key.

For the command and for the console: takes a connection and gives the archive in parts. Writes no file, prints nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secretproxy.audit import exporting, exports, review
from secretproxy.audit.checkpoints import PublicKey, Signer, keys_of, pem
from secretproxy.audit.columns import NAMES
from secretproxy.audit.filters import OPERATIONS, Filter
from secretproxy.audit.forms import RowsFile, rows_file
from secretproxy.audit.records import writer_to
from secretproxy.audit.subjects import COMPROMISED, Incident, Touched
from secretproxy.audit.verify import Report
from secretproxy.config import ConfigError

ROWS, KEY, REPORT, README = "log.jsonl", "checkpoint.pub", "verification.json", "README.txt"
INCIDENT = "rotate"
_NEVER = datetime.fromtimestamp(0, UTC)
# Rows that are written at once.
_CHUNK = 500


class Parcel:
    """A file that cannot go back, which a zip is written to and whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Does nothing: nothing is buffered."""

    def taken(self) -> bytes:
        """Gives the bytes that came since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the calendar, in UTC."""

    since: datetime
    until: datetime

    @classmethod
    def read(cls, option: str, text: str) -> Month:
        """Reads `2026-10`. Raises ConfigError for what is no month, and for one that has not begun."""
        given = re.fullmatch(r"([0-9]{4})-([0-9]{2})", text)
        try:
            if given is None:
                raise ValueError
            year, month = int(given[1]), int(given[2])
            since = datetime(year, month, 1, tzinfo=UTC)
            until = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        except ValueError:
            raise ConfigError(f"{option}: not a month; write 2026-10") from None
        if since > datetime.now(UTC):
            raise ConfigError(f"{option}: this month has not begun")
        return cls(since, until)

    def __str__(self) -> str:
        return f"{self.since:%Y-%m}"


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification of the whole log that has ended. `signed`: whether signatures were checked; `problem`: why there
    is no report."""

    began: datetime
    ended: datetime | None
    read_as: str
    signed: bool
    report: Report | None
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """Gives it as JSON has it."""
        found = {
            "sound": self.report is not None and self.report.sound, "began": self.began.isoformat(),
            "ended": self.ended and self.ended.isoformat(), "read_as": self.read_as, "signatures_checked": self.signed,
        }  # fmt: skip
        if self.report is None:
            return found | {"problem": self.problem}
        return found | dataclasses.asdict(self.report)

    def text(self) -> str:
        return json.dumps(self.record(), indent=1) + "\n"


# What else is in an archive: texts by the names of their files, made of the manifest of its rows.
Beside = Callable[[dict[str, Any]], Awaitable[dict[str, str]]]


async def packed(
    connection: Any,
    place: str,
    file: RowsFile,
    form: str,
    wanted: Filter,
    filters: dict[str, str],
    signer: Signer | None,
    beside: Beside | None = None,
    also: Sequence[Filter] = (),
    progress: Callable[[int], None] | None = None,
) -> AsyncGenerator[bytes]:
    """Gives an archive in parts, in the order of its bytes: rows, their manifest, and files that the manifest covers.

    `place`: of the rows in the archive; `file`: in which form they are made; `filters`: how the manifest names
    `wanted`; `also`: filters whose rows are packed as well; `progress` is told how many rows are there. Whoever stops
    in between has no archive: a zip ends with its index. Raises ConfigError.
    """
    parcel, tally, made_at = Parcel(), exports.ExportTally(), datetime.now(UTC)
    folder = place.rpartition("/")[0]
    # A typing of IO[bytes] asks for more than a zip that is only written needs.
    with zipfile.ZipFile(cast("Any", parcel), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        with made.open(place, "w", force_zip64=True) as member:
            rows = review.rows(connection, wanted, *also)
            async for row in exporting.tallied(rows, tally):
                file.write(row)
                if tally.rows % _CHUNK == 0:
                    member.write(file.taken())
                    if progress is not None:
                        progress(tally.rows)
                    yield parcel.taken()
            member.write(file.close())
        yield parcel.taken()
        manifest = await exporting.manifest_of(
            connection, tally, filters, form, made_at, None, accesses=wanted.needs_outcome
        )
        files = {} if beside is None else await beside(manifest)
        if files:
            manifest["files"] = {name: hashlib.sha256(given.encode()).hexdigest() for name, given in files.items()}
        if signer is not None:
            exports.sign(manifest, signer)
        for name, given in files.items():
            made.writestr(f"{folder}/{name}", given)
        made.writestr(place + exports.SUFFIX, json.dumps(manifest, indent=1) + "\n")
    yield parcel.taken()


def _lines() -> RowsFile:
    return rows_file("format", "jsonl", NAMES)


def archive(
    connection: Any,
    month: Month,
    signer: Signer | None,
    key: PublicKey | None,
    verification: Awaitable[Verification],
    progress: Callable[[int], None] | None = None,
) -> AsyncGenerator[bytes]:
    """Gives the evidence of a month in parts. Awaits `verification` once the rows are there; `progress` is told how
    many are. Raises ConfigError."""
    public = keys_of(None if signer is None else signer.public, key)

    async def beside(manifest: dict[str, Any]) -> dict[str, str]:
        found = await verification
        files = {REPORT: found.text()} | _key_file(public)
        lines = _about_month(month, manifest, found) + _how(files, public, signed=signer is not None)
        lines += ["", f"The rows of a month are a part: {REPORT} says whether a row is missing before them."]
        return files | {README: "\n".join(lines) + "\n"}

    filters = {"since": str(month.since), "until": str(month.until)}
    wanted = Filter(since=month.since, until=month.until)
    place = f"evidence-{month}/{ROWS}"
    return packed(connection, place, _lines(), "jsonl", wanted, filters, signer, beside, progress=progress)


def incident_archive(
    connection: Any,
    incident: Incident,
    form: str,
    read_as: str,
    signer: Signer | None,
    key: PublicKey | None,
) -> AsyncGenerator[bytes]:
    """Gives an incident in parts: what to rotate as CSV or JSON lines, and the rows that say so as proof. Raises
    ConfigError."""
    public = keys_of(None if signer is None else signer.public, key)
    name = f"{INCIDENT}.{form}"

    async def beside(manifest: dict[str, Any]) -> dict[str, str]:
        files = {name: rotation_list(incident, form)} | _key_file(public)
        lines = [
            "What to rotate after a compromise", "",
            *incident.words(), f"Made at {manifest['made_at']}, read as {read_as}.", "",
            f"{name} has a line for each secret, the ones to rotate first at the top. {ROWS} has the rows of the log",
            "that it was made of: those of what was compromised, in this time.", "",
        ]  # fmt: skip
        return files | {README: "\n".join(lines + _how(files, public, signed=signer is not None)) + "\n"}

    given = {option: getattr(incident.of, option) for option in (*COMPROMISED, "since", "until")}
    filters = {option: str(value) for option, value in given.items() if value is not None}
    return packed(
        connection, f"incident/{ROWS}", _lines(), "jsonl", incident.of, filters, signer, beside, incident.parts()[1:]
    )


def rotation_list(incident: Incident, form: str) -> str:
    """Gives the secrets of an incident, the ones to rotate first at the top, as CSV or JSON lines."""
    out = io.StringIO()
    write = writer_to(out, form == "csv")
    for place, one in enumerate(incident.touched, 1):
        write(one.cells(place))
    if incident.unknown:
        # Accesses that do not name their secret, as the last line.
        none = dict.fromkeys(Touched(None, "", Counter(), _NEVER, _NEVER).cells(0))
        write(none | {kind: incident.nameless[kind] for kind in (*OPERATIONS, "unknown")})
    return out.getvalue()


def _key_file(public: list[Ed25519PublicKey]) -> dict[str, str]:
    return {KEY: b"".join(map(pem, public)).decode()} if public else {}


def fingerprint(key: Ed25519PublicKey) -> str:
    """Gives what people compare keys by: SHA-256 of the key in DER, as `openssl pkey -pubin -outform DER` writes it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _about_month(month: Month, manifest: dict[str, Any], found: Verification) -> list[str]:
    lines = [
        f"Access log of secretproxy, {month} (UTC)", "",
        f"Made at {manifest['made_at']}, read as {found.read_as}.",
        f"{ROWS} has {manifest['rows']:,} rows of {len(manifest['chains']):,} chains, {manifest['direct']:,} of them",
        "direct calls, which stand outside the chains.",
    ]  # fmt: skip
    if month.until > datetime.fromisoformat(manifest["made_at"]):
        lines.append("THE MONTH WAS NOT OVER: later rows of it are not here.")
    return [*lines, "", *_verified(found), ""]


def _how(files: Iterable[str], public: list[Ed25519PublicKey], *, signed: bool) -> list[str]:
    """Says how to verify an archive offline, and what that needs from elsewhere."""
    lines = [
        "Verify this without the database, in this folder:", "",
        f"    secretproxy audit verify --file {ROWS}{f' --public-key {KEY}' if public else ''}", "",
        f"It recomputes every hash, and compares the rows, {', '.join(files)} and this",
        f"text with {ROWS}{exports.SUFFIX}. Its exit status is 0 if all is as it was, and 1 if anything was",
        "changed.", "",
    ]  # fmt: skip
    if not public:
        return [
            *lines,
            "NOT SIGNED: no checkpoint key was at hand (audit.checkpoint_key_file). Whoever had this archive could",
            "have changed rows and manifest together.",
        ]
    if not signed:
        lines.append("THE MANIFEST IS NOT SIGNED: only the public key was at hand, for the checkpoints.")
    lines += [
        f"{KEY} came with the archive, so whoever made the archive chose it. Compare it with the public key that",
        "you have from elsewhere. SHA-256 of the key (openssl pkey -pubin -in checkpoint.pub -outform DER |",
        "sha256sum):", "", *(f"    {fingerprint(one)}" for one in public),
    ]  # fmt: skip
    if len(public) > 1:
        lines += [
            "", f"The {len(public)} keys are in one file, the present one first: they signed one after the other.",
            "Compare each of them. openssl reads the first key of a file alone.",
        ]  # fmt: skip
    return lines


def _verified(found: Verification) -> list[str]:
    if found.report is None:
        return [f"THE LOG WAS NOT VERIFIED: {found.problem}"]
    report = found.report
    what = f"{report.rows:,} rows of {report.instances:,} chains"
    checked = "signatures checked" if found.signed else "SIGNATURES NOT CHECKED, for no public key was at hand"
    if report.sound:
        return [f"The whole log was verified then: nothing was altered in {what} ({checked}). See {REPORT}."]
    return [
        f"THE LOG WAS ALTERED: {len(report.findings) + report.more_findings:,} damages in {what} ({checked}).",
        f"{REPORT} names them.",
    ]
