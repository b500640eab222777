"""`audit verify`: recomputes every chain of the log, from the database or from an export, and names what was done to
it.

One pass over the lines that PostgreSQL's COPY makes of the rows, instance by instance in the order of their numbers;
memory does not grow with the log. Only what the reader computes itself is believed. May import asyncpg.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from secretproxy.audit import chain, counting
from secretproxy.audit.checkpoints import BEFORE, END, RETENTION, Checkpoint, PublicKey, genuine
from secretproxy.audit.columns import ADDED, STORED, WORDS
from secretproxy.audit.intact import altered
from secretproxy.audit.reading import AS_AUDITOR, explained_on, reading
from secretproxy.audit.review import place as log_place
from secretproxy.connections import READING, Conninfo, connect, held

MOST_FINDINGS = 100
# Seconds within which a chain must have a checkpoint, beyond those of audit.checkpoint_seconds.
LATENESS = 30.0
_DIRECT = "event OPERATOR(pg_catalog.=) 'direct'::pg_catalog.text AND instance IS NULL"
_LINES = (
    f"SELECT {', '.join(STORED)} FROM secretproxy.access_log "  # noqa: S608 - constant column names
    "WHERE event OPERATOR(pg_catalog.<>) 'direct'::pg_catalog.text OR instance IS NOT NULL OR seq IS NOT NULL OR "
    "row_hash IS NOT NULL"
    " ORDER BY instance, seq, at"
)
# Rows with a word that the package does not have: one that no view shows, say.
_STRANGE = f"""
SELECT instance, seq, pg_catalog.concat_ws(', '::pg_catalog.text, {
    ", ".join(
        f"CASE WHEN {name} OPERATOR(pg_catalog.<>) ALL (${place}::pg_catalog.text[]) THEN '{name}'::pg_catalog.text END"
        for place, name in enumerate(WORDS, 1)
    )
}) AS columns
  FROM secretproxy.access_log
 WHERE {
    " OR ".join(
        f"{name} OPERATOR(pg_catalog.<>) ALL (${place}::pg_catalog.text[])" for place, name in enumerate(WORDS, 1)
    )
}
 ORDER BY instance, seq LIMIT {MOST_FINDINGS + 1}
"""  # noqa: S608 - constant column names
_CHECKPOINTS = "SELECT instance, seq, row_hash, at, signature, kind FROM ONLY secretproxy.checkpoints"
# What says which rows are gone comes first.
_ORDER = f"""
 ORDER BY CASE WHEN kind OPERATOR(pg_catalog.=) '{BEFORE}'::pg_catalog.text THEN 0
               WHEN kind OPERATOR(pg_catalog.=) '{RETENTION}'::pg_catalog.text THEN 1 ELSE 2 END, instance, seq
"""
# How many rows there may be, without counting them.
_ESTIMATE = """
SELECT (CASE WHEN pg_catalog.sum(greatest(c.reltuples,
    0::pg_catalog.float4)) OPERATOR(pg_catalog.<>) 0::pg_catalog.float4
             THEN pg_catalog.sum(greatest(c.reltuples, 0::pg_catalog.float4)) END)::pg_catalog.int8
  FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
 WHERE i.inhparent OPERATOR(pg_catalog.=) 'secretproxy.access_log'::pg_catalog.regclass::pg_catalog.oid
"""


@dataclass(frozen=True, slots=True)
class Damage:
    """A damage of the log. `seq` is the first row that it shows at; None if it is about a whole instance."""

    instance: str
    seq: int | None
    kind: str
    text: str


@dataclass(slots=True)
class Report:
    """The findings of a verification.

    `unsigned` rows came after the last checkpoint of their instance, and `open` chains have no signed end, because
    their process runs or was killed: rows cut off there would not show. `direct` rows stand outside the chains: nothing
    vouches for them. `steps_back`: how often a row's time is before that of the row before it. `sums_used`:
    whether sums of the log are kept that fit it, which were counted again. `looked_in`: the log
    that was read; `elsewhere`: other databases whose calls past the proxy are in their own log.
    """

    rows: int = 0
    instances: int = 0
    direct: int = 0
    checkpoints: int = 0
    unsigned: int = 0
    open: int = 0
    steps_back: int = 0
    newest_checkpoint: str | None = None
    findings: list[Damage] = field(default_factory=list)
    more_findings: int = 0
    sums_used: bool = False
    looked_in: str | None = None
    elsewhere: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.findings

    def add(self, instance: object, seq: int | None, kind: str, text: str) -> None:
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Damage(str(instance), seq, kind, text))
        else:
            self.more_findings += 1


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as its instance has it.

    Hashes that are none are None; `fits_itself`: its own hash covers it and its prev_hash.
    """

    seq: int
    body: bytes
    prev_hash: bytes | None
    row_hash: bytes | None
    fits_itself: bool


_SECOND = "a second row of this number, which fits no chain"


class ChainVerifier:
    """Takes the lines of a log in order and reports what does not fit. Pure."""

    def __init__(
        self, key: PublicKey | None, *, signed_before: datetime | None = None, accept_unsigned: bool = False
    ) -> None:
        """Takes `signed_before`: with a key, a chain that began before then, or after now, must have a checkpoint."""
        self.report = Report()
        self._key = key
        self._signed_before = b"" if signed_before is None else chain.field(signed_before).encode()
        self._now = chain.field(datetime.now(UTC) + timedelta(seconds=LATENESS)).encode()
        self._accept_unsigned = accept_unsigned
        self._newest: datetime | None = None
        self._first_at = b""
        self._last_at = b""
        self._claimed: dict[str, int] = {}
        self._before_retention: dict[tuple[str, datetime], tuple[int, bytes]] = {}
        self._expect: dict[str, dict[int, bytes]] = {}
        self._signed: dict[str, dict[int, bytes]] = {}
        self._ended: dict[str, int] = {}
        # Of each instance the rows that retention removed: the first and last of a range, the hash before it (None: not
        # said), and its own.
        self._removed: dict[str, list[tuple[int, int, bytes | None, bytes]]] = {}
        self._instance = ""
        self._expected = 1
        # The hash of the row before the expected one, and of that before it.
        self._previous = chain.GENESIS
        self._before = chain.GENESIS
        # Where two processes wrote as one instance: further rows before the expected one that fit.
        self._rivals: list[bytes] = []
        self._rivals_before: list[bytes] = []
        self._forked = False
        self._checks: dict[int, bytes] = {}
        self._last_signed = 0
        # The number after the signed end.
        self._beyond = 0
        self._done: set[str] = set()
        # Of a row that does not fit: the hash that should come before it, and its place among the findings.
        self._suspect: tuple[bytes, int] | None = None

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Takes a checkpoint. All of them come before the first line, in the order of `in_order`."""
        self.report.checkpoints += 1
        name = str(checkpoint.instance)
        if self._key is None:
            if checkpoint.kind in (RETENTION, BEFORE, END):
                # Anybody who may write could have written it. It excuses nothing and ends nothing.
                if checkpoint.kind == RETENTION:
                    self._claimed[name] = max(self._claimed.get(name, 0), checkpoint.seq)
                return
        elif not genuine(checkpoint, self._key):
            self.report.add(checkpoint.instance, checkpoint.seq, "checkpoint", "the signature of a checkpoint is wrong")
            return
        else:
            self._newest = max(self._newest or checkpoint.at, checkpoint.at)
        if checkpoint.kind == BEFORE:
            self._before_retention[name, checkpoint.at] = (checkpoint.seq, checkpoint.row_hash)
        elif checkpoint.kind == RETENTION:
            before = self._before_retention.get((name, checkpoint.at))
            first, hash_before = (1, None) if before is None else (before[0] + 1, before[1])
            self._removed.setdefault(name, []).append((first, checkpoint.seq, hash_before, checkpoint.row_hash))
        elif any(first <= checkpoint.seq < last for first, last, _, _ in self._removed.get(name, ())):
            return  # there is no row left to compare it with
        if checkpoint.kind == END:
            self._ended[name] = max(self._ended.get(name, 0), checkpoint.seq)
        if self._signed.setdefault(name, {}).setdefault(checkpoint.seq, checkpoint.row_hash) != checkpoint.row_hash:
            text = "two checkpoints of one row differ: two processes wrote as this instance"
            self.report.add(name, checkpoint.seq, "two writers", text)

    def expect(self, instance: object, seq: int, row_hash: bytes) -> None:
        """Names the hash that a row is to have; before the first line."""
        self._expect.setdefault(str(instance), {})[seq] = row_hash

    def _was_removed(self, instance: str, first: int, last: int, before: bytes, after: bytes | None) -> bool:
        """Says whether retention has signed that it removed these rows.

        They stood between these hashes (None: at the end).
        """
        place = first
        while place <= last:
            ends = [
                end
                for begin, end, hash_before, row_hash in self._removed.get(instance, ())
                if begin <= place <= end <= last
                and (begin != first or hash_before is None or hash_before == before)
                and (end != last or after is None or row_hash == after)
            ]
            if not ends:
                return False
            place = max(ends) + 1
        return True

    def lines(self, block: bytes) -> None:
        """Takes whole lines, each with its newline."""
        sha256 = hashlib.sha256
        expected, before, previous = self._expected, self._before, self._previous
        instance = self._instance.encode()
        checks, rivals, beyond = self._checks, self._rivals, self._beyond
        last_at = self._last_at
        count = 0
        for line in block.split(b"\n"):
            if not line:
                continue
            count += 1
            body, _, row_hash = line.rpartition(b"\t")
            body, _, prev_hash = body.rpartition(b"\t")
            name, seq_text, _, at, _ = body.split(b"\t", 4)
            if at < last_at and name == instance:
                self.report.steps_back += 1
            last_at = at
            if (
                name == instance
                and seq_text == b"%d" % expected
                and expected not in checks
                and expected != beyond
                and not rivals
            ):
                found = sha256(previous + (chain.covered(body) if ADDED else body)).digest()
                if row_hash[3:] == found.hex().encode() and prev_hash[3:] == previous.hex().encode():
                    before, previous = previous, found
                    expected += 1
                    continue
            self._expected, self._before, self._previous = expected, before, previous
            self._last_at = at
            self._step(name, seq_text, body, prev_hash, row_hash)
            expected, before, previous = self._expected, self._before, self._previous
            instance, checks, rivals, beyond = self._instance.encode(), self._checks, self._rivals, self._beyond
        self._expected, self._before, self._previous = expected, before, previous
        self._last_at = last_at
        self.report.rows += count

    def _step(self, name: bytes, seq_text: bytes, body: bytes, prev_text: bytes, hash_text: bytes) -> None:
        """Takes a row that does not simply continue the chain, and looks for each kind of damage in its turn."""
        instance = name.decode()
        if instance == "\\N" or seq_text == b"\\N":
            self.report.add("-", None, "inserted", "a row that is not marked direct belongs to no chain")
            return
        if instance != self._instance:
            self._end_instance()
            if instance in self._done:
                self.report.add(instance, None, "reordered", "the rows of an instance do not stand together")
            self._begin_instance(instance)
        prev_hash, row_hash = _bytes(prev_text), _bytes(hash_text)
        row = _Row(int(seq_text), body, prev_hash, row_hash, chain.link(prev_hash or b"", body) == row_hash)
        if row.seq < self._expected:
            self._inserted(row)
            return
        if row.seq > self._expected:
            self._missing(row)
        if prev_hash in self._rivals:
            self._previous, self._rivals[self._rivals.index(prev_hash)] = prev_hash, self._previous
        if row.seq == self._beyond:
            self._damage(row.seq, "inserted", "a row after the end that its process signed")
        if prev_hash != self._previous:
            self._unlinked(row)
        elif not row.fits_itself:
            self._damage(row.seq, "changed", "a column of this row was changed: its hash does not fit")
        self._suspect = (
            None if row.fits_itself and prev_hash == self._previous else (self._previous, len(self.report.findings) - 1)
        )
        self._made_anew(row)
        self._before, self._previous = self._previous, row_hash or b""
        self._rivals_before, self._rivals = self._rivals, []
        self._expected = row.seq + 1

    def _damage(self, seq: int, kind: str, text: str) -> None:
        """Reports a damage of the instance whose rows are taken."""
        self.report.add(self._instance, seq, kind, text)

    def _inserted(self, row: _Row) -> None:
        """Reports a row whose number was taken already, or takes it where the row before it is the one that does not
        belong."""
        if row.seq < self._expected - 1:
            self._damage(row.seq, "inserted", "a row where the chain has none")
        elif self._suspect is not None and row.fits_itself and row.prev_hash == self._suspect[0]:
            self._takes_place_of(self._suspect[1], row)
        elif row.fits_itself and (row.prev_hash == self._before or row.prev_hash in self._rivals_before):
            self._second_writer(row)
        else:
            self._damage(row.seq, "inserted", _SECOND)

    def _takes_place_of(self, place: int, row: _Row) -> None:
        """Handles a row whose predecessor has the same number and does not belong here.

        The predecessor's finding, at this place, says so.
        """
        if place < len(self.report.findings):
            wrong = self.report.findings[place]
            self.report.findings[place] = Damage(wrong.instance, row.seq, "inserted", _SECOND)
        self._previous = row.row_hash or b""
        self._suspect = None

    def _second_writer(self, row: _Row) -> None:
        """Reports, once per instance, a second row of one number that continues the chain."""
        self._rivals.append(row.row_hash or b"")
        if not self._forked:
            self._forked = True
            text = (
                "a second row of this number that continues the chain as well: another process wrote as this instance"
            )
            self._damage(row.seq, "two writers", text)

    def _missing(self, row: _Row) -> None:
        """Reports the rows before this one, unless retention has signed that it removed them.

        The chain goes on with this row.
        """
        first, last = self._expected, row.seq - 1
        if not self._was_removed(self._instance, first, last, self._previous, row.prev_hash or b""):
            missing = f"row {first} is" if first == last else f"rows {first} to {last} are"
            claimed = ""
            if self._claimed.get(self._instance, 0) >= last:
                claimed = ": a checkpoint says that retention removed them, which only --public-key can prove"
            self._damage(first, "missing", f"{missing} missing{claimed}")
        self._previous = row.prev_hash or b""

    def _unlinked(self, row: _Row) -> None:
        """Reports a row that does not follow the hash of the row before it."""
        if row.fits_itself and self._checks.get(row.seq - 1) == row.prev_hash:
            self._damage(row.seq - 1, "changed", "the row before does not have the hash that its checkpoint signed")
        elif row.fits_itself:
            text = (
                "this row was changed and given a new hash, or another one was put in its place:"
                " the row after it continues another chain"
            )
            self._damage(row.seq - 1 if row.seq > 1 else row.seq, "changed", text)
        elif chain.link(self._previous, row.body) == row.row_hash:
            self._damage(row.seq, "changed", "prev_hash was changed")
        else:
            self._damage(row.seq, "reordered", "another row, or one of another number, stands in this place")

    def _made_anew(self, row: _Row) -> None:
        """Reports a row whose hash is not the one that a checkpoint signed."""
        signed = self._checks.get(row.seq)
        if signed is not None and signed != row.row_hash:
            text = "the hash is not the one that a checkpoint signed: the chain was made anew up to here"
            self._damage(row.seq, "changed", text)

    def _begin_instance(self, instance: str) -> None:
        self._instance = instance
        self._suspect = None
        self._expected, self._before, self._previous = 1, chain.GENESIS, chain.GENESIS
        self._rivals, self._rivals_before, self._forked = [], [], False
        self._first_at = self._last_at
        self._checks = self._signed.get(instance, {})
        self._last_signed = max(self._checks, default=0)
        if instance in self._expect:
            self._checks = self._expect[instance] | self._checks
        self._beyond = self._ended.get(instance, -1) + 1
        self.report.instances += 1

    def _end_instance(self) -> None:
        if not self._instance:
            return
        last = self._expected - 1
        self._done.add(self._instance)
        if (
            self._key is not None
            and self._instance not in self._signed
            and self._signed_before
            and not self._accept_unsigned
            and not self._signed_before <= self._first_at <= self._now
        ):
            text = (
                "no checkpoint vouches for this chain: its process had no key, or somebody who may write the log "
                "made it up"
            )
            self.report.add(self._instance, None, "unsigned", text)
        if self._last_signed > last and not self._was_removed(
            self._instance, last + 1, self._last_signed, self._previous, None
        ):
            self.report.add(
                self._instance, last + 1, "truncated",
                f"a checkpoint signed row {self._last_signed}, but the log ends at row {last}",
            )  # fmt: skip
        self.report.unsigned += max(0, last - self._last_signed)
        self.report.open += self._instance not in self._ended

    def finish(self) -> Report:
        """Gives the report, after every line has been taken."""
        self._end_instance()
        for instance, signed in self._signed.items():
            most = max(signed)
            if instance not in self._done and most and not self._was_removed(instance, 1, most, chain.GENESIS, None):
                self.report.add(
                    instance, None, "truncated", f"checkpoints signed {most} rows, none of which is in the log"
                )
        self._instance = ""
        if self._newest is not None:
            self.report.newest_checkpoint = self._newest.astimezone(UTC).isoformat(timespec="seconds")
        return self.report


def _bytes(text: bytes) -> bytes | None:
    if not text.startswith(b"\\\\x"):
        return None
    try:
        return bytes.fromhex(text[3:].decode("ascii"))
    except ValueError:
        return None


Progress = Callable[[int, int | None], None]


async def verify_database(
    dsn: str | Conninfo | None,
    outside: Iterable[Checkpoint],
    key: PublicKey | None,
    progress: Progress,
    *,
    signed_within: float = 60.0,
    accept_unsigned: bool = False,
    expected: Iterable[tuple[uuid.UUID, int, bytes]] = (),
) -> Report:
    """Verifies the log of a database against its own checkpoints and `outside` ones. `progress`: (rows done, estimate).

    `signed_within`: seconds after which a chain must have a checkpoint, where there is a key. `expected`: hashes that
    rows are to have. Raises ConnectError; ConfigError for what breaks or is refused.
    """
    async with held(await connect(dsn, "secretproxy audit", timeout=15, settings=READING), explained_on) as connection:
        await connection.execute(AS_AUDITOR)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SET LOCAL cursor_tuple_fraction = 1; SET LOCAL enable_sort = on")
            now = await connection.fetchval("SELECT pg_catalog.now()")
            verifier = ChainVerifier(
                key, signed_before=now - timedelta(seconds=signed_within + LATENESS), accept_unsigned=accept_unsigned
            )
            for what in await altered(connection):
                verifier.report.add("-", None, "altered", what)
            for instance, seq, row_hash in expected:
                verifier.expect(instance, seq, row_hash)
            where = await log_place(connection)
            verifier.report.looked_in, verifier.report.elsewhere = str(where), list(where.others)
            await _take_checkpoints(connection, verifier, outside)
            total = await connection.fetchval(_ESTIMATE)
            rest = bytearray()

            async def take(data: bytes) -> None:
                nonlocal rest
                cut = data.rfind(b"\n") + 1
                if not cut:
                    rest += data
                    return
                verifier.lines(bytes(rest) + data[:cut])
                rest = bytearray(data[cut:])
                progress(verifier.report.rows, total)

            await _copy(connection, _LINES, take)
            report = verifier.finish()
            for row in await connection.fetch(_STRANGE, *(list(words) for words in WORDS.values())):
                text = f"a word that secretproxy does not write, in {row['columns']}"
                report.add(row["instance"] or "-", row["seq"], "strange", text)
            count = f"SELECT pg_catalog.count(*) FROM secretproxy.access_log WHERE {_DIRECT}"  # noqa: S608 - constant text
            report.direct = int(await connection.fetchval(count))
            progress(report.rows, report.rows)
    async with reading(dsn) as connection:
        differing, report.sums_used = await counting.unlike(connection)
    for text in differing:
        report.add("-", None, "sums", text)
    return report


async def _take_checkpoints(connection: Any, verifier: ChainVerifier, outside: Iterable[Checkpoint]) -> None:
    """Gives a verifier the checkpoints of the log and those kept elsewhere.

    First those that say which rows are gone.
    """
    kept = in_order(outside)
    for checkpoint in kept:
        if checkpoint.kind in (BEFORE, RETENTION):
            verifier.checkpoint(checkpoint)
    async for row in connection.cursor(_CHECKPOINTS + _ORDER, prefetch=1000):
        verifier.checkpoint(Checkpoint(*row))
    for checkpoint in kept:
        if checkpoint.kind not in (BEFORE, RETENTION):
            verifier.checkpoint(checkpoint)


def in_order(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Gives the sort key of findings: those that say which rows are missing come first."""
    order = {BEFORE: 0, RETENTION: 1}
    return sorted(checkpoints, key=lambda checkpoint: order.get(checkpoint.kind, 2))


async def _copy(connection: Any, query: str, take: Callable[[bytes], Any]) -> None:
    """Yields the output of COPY in blocks; asyncpg gives what a single read of the socket gave."""
    blocks: list[bytes] = []
    size = 0

    async def gather(data: bytes) -> None:
        nonlocal size
        blocks.append(data)
        size += len(data)
        if size > 1 << 20:
            await take(b"".join(blocks))
            blocks.clear()
            size = 0

    await connection.copy_from_query(query, output=gather, format="text")
    if blocks:
        await take(b"".join(blocks))


def verify_whole(
    rows: Iterable[tuple[int, dict[str, Any], bytes]], outside: Iterable[Checkpoint], key: PublicKey | None
) -> Report:
    """Verifies an export that has no manifest, whose chains then must begin with row 1."""
    verifier = ChainVerifier(key)
    for checkpoint in in_order(outside):
        verifier.checkpoint(checkpoint)
    direct = 0
    for _, row, body in rows:
        if row["event"] == "direct" and row["instance"] is None and row["seq"] is None:
            direct += 1
            continue
        hashes = [b"\\\\x" + row[name].encode() if row[name] else b"\\N" for name in ("prev_hash", "row_hash")]
        verifier.lines(b"\t".join([body, *hashes]) + b"\n")
    report = verifier.finish()
    report.direct = direct
    return report
