"""Makes the evidence of a month: one archive with the rows of that month, their signed manifest, the public key, the
report of a verification of the whole log, and how to verify all of it offline.

For the command and for the console: takes a connection and gives the archive in parts. Writes no file, prints nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secretproxy.audit import exporting, exports, review
from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.filters import Filter
from secretproxy.audit.records import writer_to
from secretproxy.audit.verify import Report
from secretproxy.config import ConfigError

ROWS, KEY, REPORT, README = "log.jsonl", "checkpoint.pub", "verification.json", "README.txt"
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


async def archive(
    connection: Any,
    month: Month,
    signer: Signer | None,
    key: Ed25519PublicKey | None,
    verification: Awaitable[Verification],
) -> AsyncIterator[bytes]:
    """Gives the archive in parts, in the order of its bytes. Raises ConfigError.

    Awaits `verification` once the rows are there. Whoever stops in between has no archive: a zip ends with its index.
    """
    folder, made_at = f"evidence-{month}", datetime.now(UTC)
    public = signer.public if signer is not None else key
    parcel, tally, text = Parcel(), exports.ExportTally(), io.StringIO()
    write = writer_to(text, as_csv=False)
    # A typing of IO[bytes] asks for more than a zip that is only written needs.
    with zipfile.ZipFile(cast("Any", parcel), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        with made.open(f"{folder}/{ROWS}", "w", force_zip64=True) as file:
            wanted = Filter(since=month.since, until=month.until)
            async for row in exporting.tallied(review.rows(connection, wanted), tally):
                write(row)
                if tally.rows % _CHUNK == 0:
                    file.write(text.getvalue().encode())
                    text.seek(0)
                    text.truncate()
                    yield parcel.taken()
            file.write(text.getvalue().encode())
        yield parcel.taken()
        filters = {"since": str(month.since), "until": str(month.until)}
        manifest = await exporting.manifest_of(connection, tally, filters, "jsonl", made_at, None)
        found = await verification
        beside = {REPORT: found.text()}
        if public is not None:
            beside[KEY] = pem(public).decode()
        beside[README] = readme(month, manifest, found, public, signed=signer is not None)
        manifest["files"] = {name: hashlib.sha256(given.encode()).hexdigest() for name, given in beside.items()}
        if signer is not None:
            exports.sign(manifest, signer)
        beside[ROWS + exports.SUFFIX] = json.dumps(manifest, indent=1) + "\n"
        for name, given in beside.items():
            made.writestr(f"{folder}/{name}", given)
    yield parcel.taken()


def pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: Ed25519PublicKey) -> str:
    """Gives what people compare keys by: SHA-256 of the key in DER, as `openssl pkey -pubin -outform DER` writes it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def readme(
    month: Month, manifest: dict[str, Any], found: Verification, public: Ed25519PublicKey | None, *, signed: bool
) -> str:
    """Says what the archive has and how to verify it offline."""
    lines = [
        f"Access log of secretproxy, {month} (UTC)",
        "",
        f"Made at {manifest['made_at']}, read as {found.read_as}.",
        f"{ROWS} has {manifest['rows']:,} rows of {len(manifest['chains']):,} chains, {manifest['direct']:,} of them",
        "direct calls, which stand outside the chains.",
    ]
    if month.until > datetime.fromisoformat(manifest["made_at"]):
        lines.append("THE MONTH WAS NOT OVER: later rows of it are not here.")
    lines += ["", *_verified(found), ""]
    lines += [
        "Verify the rows without the database, in this folder:", "",
        f"    secretproxy audit verify --file {ROWS}{'' if public is None else f' --public-key {KEY}'}", "",
        f"This recomputes every hash, and compares rows, {REPORT} and this text with",
        f"{ROWS}{exports.SUFFIX}. Its exit status is 0 if all is as it was, and 1 if anything was changed.", "",
    ]  # fmt: skip
    if public is None:
        lines += [
            "NOT SIGNED: no checkpoint key was at hand (audit.checkpoint_key_file). Whoever had this archive could",
            "have changed rows and manifest together.",
        ]
    else:
        if not signed:
            lines.append("THE MANIFEST IS NOT SIGNED: only the public key was at hand, for the checkpoints.")
        lines += [
            f"{KEY} came with the archive, so whoever made the archive chose it. Compare it with the public key that",
            "you have from elsewhere. SHA-256 of the key (openssl pkey -pubin -in checkpoint.pub -outform DER |",
            "sha256sum):", "", f"    {fingerprint(public)}",
        ]  # fmt: skip
    lines += [
        "",
        f"The rows of a month are a part: that no row is missing before them is what {REPORT} says of the whole log.",
    ]
    return "\n".join(lines) + "\n"


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
