"""Writes events as lines of secretproxy.access_log, numbered and linked, in the columns of audit.columns.

A line is made once: the chain hashes it, the log takes it as it is, the spool keeps it. Pure, compiled by mypyc where
that is asked for.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import time
import uuid
from binascii import hexlify
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from secretproxy.audit import chain
from secretproxy.audit.columns import ADDED, CHAINED, NAMES, STORED, TYPES, LogColumn
from secretproxy.audit.masking import NameMask, name_bytes
from secretproxy.session.events import Event, Identity
from secretproxy.wire.digest import MAKERS, sha256


def _insert(field: str, source: str) -> str:
    values = ", ".join(f"{field % place}::pg_catalog.{TYPES[name]}" for place, name in enumerate(STORED, 1))
    return f"INSERT INTO secretproxy.access_log ({', '.join(STORED)}) SELECT {values} {source}"


# For rows that the log may have already, which stay single. It costs the server a ninth of what a row costs it, so new
# rows go without.
_AGAIN: Final = " ON CONFLICT DO NOTHING"
# Takes the lines of a group in one parameter: a statement opens the table and its indexes once.
INSERT: Final = _insert(
    "f[%d]",
    r"FROM (SELECT pg_catalog.string_to_array(l, E'\t', '\N') AS f"
    r" FROM pg_catalog.string_to_table($1::pg_catalog.text, E'\n') AS l OFFSET 0) AS s",
)
INSERT_AGAIN: Final = INSERT + _AGAIN
# Takes one line, each field a parameter that the server reads as its column's type: for a single row that is a third
# cheaper than to cut and cast a text, for seven not a twentieth.
INSERT_ROW: Final = _insert("$%d", "").rstrip()
# Takes a group as an array of rows of the table's own type, in binary form: no text is cut, no type cast, and what a
# statement sets up is little. Where somebody changed the table's columns, or rows are not made in C, the others are
# left. A row's fields have their names by their places: those of the type may be others by now.
INSERT_PACKED: Final = (
    f"INSERT INTO secretproxy.access_log ({', '.join(NAMES)})"  # noqa: S608 - constant text
    f" SELECT {', '.join(['r.' + name for name in NAMES])} FROM pg_catalog.unnest($1::secretproxy.access_log[])"
    f" AS r ({', '.join(NAMES)})"
)
# Gives the OID of that type, and its columns with the OIDs of their types.
ROW_TYPE: Final = """
SELECT c.reltype, pg_catalog.array_agg(pg_catalog.concat(a.attname, ' ', a.atttypid) ORDER BY a.attnum)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
 WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secretproxy.access_log')::pg_catalog.oid
   AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
 GROUP BY c.reltype"""
# src/include/catalog/pg_type.dat
_OIDS: Final = {
    "bool": 16, "bytea": 17, "int8": 20, "int4": 23, "text": 25, "float8": 701, "inet": 869, "text[]": 1009,
    "timestamptz": 1184, "uuid": 2950,
}  # fmt: skip
ROW_COLUMNS: Final = [f"{name} {_OIDS[TYPES[name]]}" for name in NAMES]
# Takes the texts of one line's fields, where a field holds what those separators would mistake.
INSERT_ONE: Final = _insert("$%d::pg_catalog.text", "").rstrip() + _AGAIN
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_PLAIN: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# Characters of names (or of a call path) that a row may have, and those that are taken at a time, which is one
# statement's. What is beyond them stands there as a count and a keyed digest: a row that takes the log seconds would
# stop it for everybody.
ROW_NAMES: Final = 256 * 1024
STATEMENT_NAMES: Final = 1024 * 1024
_MANY: Final = 64
# A value that is NULL, in the place of its length.
NULL: Final = b"\xff\xff\xff\xff"
# The fields as the log writes them; what else PostgreSQL reads is left to it.
_UUID: Final = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTEGER: Final = re.compile(rb"-?[0-9]{1,18}")
_MOMENT: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?\+00")
_FLOAT: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")
_ELEMENT: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^"\\{}, \t-\r]+)', re.DOTALL)
_ESCAPED_BYTE: Final = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN_BYTES: Final = {key.encode("ascii"): value.encode("ascii") for key, value in _PLAIN.items()}
_YEAR_2000: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Texts and secrets' names of which the escaped and masked form is kept, and the random bytes that are drawn at a time.
_KEPT_TEXTS: Final = 4096
_KEPT_NAMES: Final = 16_384
_RANDOM: Final = 4096
# Rows that wait from which on they are not kept in binary form too.
_PACKED_AHEAD: Final = 1024


def no_row(*given: object) -> tuple[bytes, bytes, bytes] | None:
    """Gives None: no row is written in C."""
    return None


def no_part(text: bytes, first: int) -> bytes | None:
    """Gives None: parts are for rows that are written in C."""
    return None


def row(line: bytes, prev_hash: bytes, row_hash: bytes) -> bytes:
    """Gives the columns of STORED for INSERT, of a line without an escaped field."""
    return b"".join((line, b"\t\\x", hexlify(prev_hash), b"\t\\x", hexlify(row_hash)))


def packed_row(line: bytes, prev_hash: bytes, row_hash: bytes) -> bytes | None:
    """Gives an element of the parameter of INSERT_PACKED; None for a line that is not as the log writes it."""
    fields = line.split(b"\t")
    if len(fields) != len(CHAINED) or b"\0" in line:
        return None
    given = dict(zip(CHAINED, fields, strict=True))
    made = [len(NAMES).to_bytes(4, "big")]
    try:
        for name in NAMES:
            kind = TYPES[name]
            made.append(_OIDS[kind].to_bytes(4, "big"))
            if kind == "bytea":
                made.append(sized(prev_hash if name == "prev_hash" else row_hash))
                continue
            text = given[name]
            made.append(NULL if text == b"\\N" else sized(_packed_field(kind, text)))
    except (ValueError, OSError, OverflowError, struct.error):
        return None
    return sized(b"".join(made))


def sized(value: bytes) -> bytes:
    """Gives a value as messages have it, behind its length."""
    return len(value).to_bytes(4, "big") + value


def _packed_field(kind: str, text: bytes) -> bytes:
    """Gives a field in binary form. Raises ValueError and others where it is not as the log writes it."""
    if b"\\" in text and kind in ("text", "text[]"):
        text = _ESCAPED_BYTE.sub(lambda found: _PLAIN_BYTES.get(found[1], found[1]), text)
    if kind == "text":
        return text
    if kind == "text[]":
        return _packed_texts(text)
    if kind == "bool":
        return {b"t": b"\1", b"f": b"\0"}[text] if text in (b"t", b"f") else _refused()
    if kind == "inet":
        family, code = (socket.AF_INET6, 3) if b":" in text else (socket.AF_INET, 2)
        address = socket.inet_pton(family, text.decode("ascii"))
        return bytes([code, len(address) * 8, 0, len(address)]) + address
    form = {"uuid": _UUID, "timestamptz": _MOMENT, "float8": _FLOAT}.get(kind, _INTEGER)
    if form.fullmatch(text) is None:
        return _refused()
    if kind == "uuid":
        return bytes.fromhex(text.decode("ascii").replace("-", ""))
    if kind == "timestamptz":
        moment = datetime.fromisoformat(text.decode("ascii"))
        return struct.pack("!q", (moment - _YEAR_2000) // _MICROSECOND)
    if kind == "float8":
        return struct.pack("!d", float(text)) if len(text) < 32 else _refused()
    return struct.pack("!i" if kind == "int4" else "!q", int(text))


def _refused() -> bytes:
    raise ValueError("not as the log writes it")


def _packed_texts(text: bytes) -> bytes:
    """Gives an array of texts in binary form."""
    if len(text) < 2 or text[:1] != b"{" or text[-1:] != b"}":
        return _refused()
    if text == b"{}":
        return struct.pack("!iiI", 0, 0, _OIDS["text"])
    made: list[bytes] = []
    pos, end = 1, len(text) - 1
    while True:
        found = _ELEMENT.match(text, pos, end)
        if found is None:
            return _refused()
        if found[1] is not None:
            made.append(sized(_ESCAPED_BYTE.sub(rb"\1", found[1])))
        else:
            made.append(NULL if found[2].upper() == b"NULL" else sized(found[2]))
        pos = found.end() + 1
        if pos > end:
            break
        if text[pos - 1 : pos] != b",":
            return _refused()
    return struct.pack("!iiIii", 1, int(NULL in made), _OIDS["text"], len(made), 1) + b"".join(made)


# Of a row of the commonest form, as its line, its hash and itself in binary form; of a row as a text, and of one in
# binary form; of the parts that the first one takes.
Writers = tuple[
    Callable[..., tuple[bytes, bytes, bytes] | None], Callable[[bytes, bytes, bytes], bytes],
    Callable[[bytes, bytes, bytes], bytes | None], Callable[[bytes, int], bytes | None],
]  # fmt: skip


def _writers() -> Writers:
    """Gives what writes these: in C where the package was compiled."""
    try:
        from secretproxy.audit import _rows
    except ImportError:
        return no_row, row, packed_row, no_part
    # Columns that were added since are not among those that are written in C.
    if ADDED:
        return no_row, _rows.plain, packed_row, no_part
    # Its hashes are those of OpenSSL.
    if MAKERS[0] is sha256:
        return no_row, _rows.plain, _rows.packed, no_part
    return _rows.linked, _rows.plain, _rows.packed, _rows.fields


WRITERS: Final = _writers()
_write_linked: Final[Callable[..., tuple[bytes, bytes, bytes] | None]] = WRITERS[0]
_write_row: Final[Callable[[bytes, bytes, bytes], bytes]] = WRITERS[1]
_pack_row: Final[Callable[[bytes, bytes, bytes], bytes | None]] = WRITERS[2]
_part: Final[Callable[[bytes, int], bytes | None]] = WRITERS[3]
# Python takes longer to make a row in binary form (30 us) than that saves the server (10 us); C takes 0.6 us.
PACKS: Final[bool] = WRITERS[2] is not packed_row
_WRITES: Final[bool] = WRITERS[0] is not no_row
# The first fields of the parts that a row is written of.
_INSTANCE_AT: Final = CHAINED.index("instance")
_EVENT_AT: Final = CHAINED.index("event")
_SESSION_AT: Final = CHAINED.index("session_id")
_FUNCTION_AT: Final = CHAINED.index("function")
_NAMES_AT: Final = CHAINED.index("secret_names")
_ENCODING_AT: Final = CHAINED.index("encoding")
_USER_AT: Final = CHAINED.index("db_user")
_ROLE_AT: Final = CHAINED.index("role")
_DATABASE_AT: Final = CHAINED.index("database")
_OUTCOME_AT: Final = CHAINED.index("outcome")


class Line:
    """A row of the log as it is written: its number, the line that its hash covers, and the two hashes."""

    __slots__ = ("_is_plain", "_packed", "line", "prev_hash", "row_hash", "seq")

    def __init__(
        self,
        seq: int,
        line: bytes,
        prev_hash: bytes,
        row_hash: bytes,
        is_plain: bool = False,
        packed: bytes | None = None,
    ) -> None:
        """`is_plain`: it is known that no field is escaped. `packed`: what packed() gives, where that was made."""
        self.seq = seq
        self._packed = packed
        self._is_plain = is_plain
        self.line = line
        self.prev_hash = prev_hash
        self.row_hash = row_hash

    def __repr__(self) -> str:
        return f"Line({self.seq})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and self.stored() == other.stored()

    def __hash__(self) -> int:
        return hash(self.row_hash)

    def stored(self) -> bytes:
        """Gives the columns of STORED as a line for COPY, without its newline."""
        return b"%b\t\\\\x%b\t\\\\x%b" % (self.line, self.prev_hash.hex().encode(), self.row_hash.hex().encode())

    def plain(self) -> bytes | None:
        """Gives the same for INSERT; None if a field is escaped."""
        line = self.line
        if not self._is_plain and line.count(b"\\") != line.count(b"\\N"):
            # A backslash is not that of a NULL.
            return None
        return _write_row(line, self.prev_hash, self.row_hash)

    def packed(self) -> bytes | None:
        """Gives an element of the parameter of INSERT_PACKED; None if a field is not as the log writes it."""
        made = self._packed
        return _pack_row(self.line, self.prev_hash, self.row_hash) if made is None else made

    def forget_packed(self) -> None:
        """Takes less memory, for a row that will wait."""
        self._packed = None

    def after(self, before: bytes) -> Line:
        """Gives the same line as the successor of the hash `before`."""
        return Line(self.seq, self.line, before, chain.link(before, self.line))

    @property
    def instance(self) -> uuid.UUID:
        return uuid.UUID(self.line.partition(b"\t")[0].decode("ascii"))

    def fields(self) -> list[str | None]:
        """Gives the same as the texts that INSERT_ONE takes."""
        return [
            None if field == "\\N" else _ESCAPED.sub(_unescaped, field) if "\\" in field else field
            for field in self.stored().decode("utf-8").split("\t")
        ]


def _unescaped(found: re.Match[str]) -> str:
    return _PLAIN.get(found[1], found[1])


def _address(
    found: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Writes an address like the type inet: without a zone, and a mapped IPv4 address as IPv4."""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found.scope_id is not None:
            return ipaddress.IPv6Address(int(found))
    return found


def joined(group: Sequence[Line]) -> bytes | None:
    """The parameter of INSERT for a group; None if a field is escaped."""
    made: list[bytes] = []
    for line in group:
        plain = line.plain()
        if plain is None:
            return None
        made.append(plain)
    return b"\n".join(made)


def array_head(row_type: int, count: int) -> bytes:
    """Gives what an array of so many rows begins with, with the OID of a row's type."""
    # One dimension, no NULL, the type, the count, the first one's number: array_recv().
    return struct.pack("!iiIii", 1, 0, row_type, count, 1)


def packed(group: list[Line], head: bytes) -> list[bytes] | None:
    """The parameter of INSERT_PACKED for a group, in pieces, behind what the array begins with; None if a field is not
    as the log writes it."""
    made = [head]
    for line in group:
        row = line.packed()
        if row is None:
            return None
        made.append(row)
    return made


def stored_line(stored: bytes) -> Line:
    """Parses what `Line.stored` gave. Raises ValueError."""
    rest, _, row_hash = stored.rpartition(b"\t")
    line, _, prev_hash = rest.rpartition(b"\t")
    # A process of an older version wrote no columns that were added since.
    line += b"\t\\N" * (len(CHAINED) - 1 - line.count(b"\t"))
    return Line(
        int(line.split(b"\t", 2)[1]),
        line,
        bytes.fromhex(prev_hash[3:].decode("ascii")),
        bytes.fromhex(row_hash[3:].decode("ascii")),
    )


def _seconds(duration: float) -> str:
    """Writes seconds to the microsecond, as PostgreSQL writes a double precision number."""
    micros = int(duration * 1e6 + 0.5)
    if not 100 <= micros < 1_000_000:
        # Others may have an exponent, or no fraction.
        return chain.number(round(duration, 6))
    return "0." + str(1_000_000 + micros)[1:].rstrip("0")


class _Known:
    """What is written of an identity: the session, the user, the columns from the database to tls. `is_plain`: nothing
    is escaped in them. `parts`: these three for a row that is written in C; None where one of them cannot be."""

    __slots__ = ("codec", "is_plain", "parts", "session", "tail", "user")

    def __init__(self, session: str, user: str, tail: str, codec: str, is_plain: bool) -> None:
        self.session = session
        self.user = user
        self.tail = tail
        self.codec = codec
        self.is_plain = is_plain
        self.parts: tuple[bytes, ...] | None = _parts((session, _SESSION_AT), (user, _USER_AT), (tail, _DATABASE_AT))

    def __repr__(self) -> str:
        return f"_Known({self.session})"


def _parts(*texts: tuple[str, int]) -> tuple[bytes, ...] | None:
    """Gives parts of texts, each with the number of its first field; None where one cannot be."""
    if not _WRITES:
        return None
    made: list[bytes] = []
    for text, first in texts:
        part = _part(text.encode("utf-8", "surrogatepass"), first)
        if part is None:
            return None
        made.append(part)
    return tuple(made)


class _Pattern:
    """What the rows of a statement have in common each time it runs: these columns in parts, and the values that they
    were written of. A row is of this pattern where it has the very same values."""

    __slots__ = (
        "encoding", "event", "function", "operation", "outcome", "parts", "protocol", "role", "sqlstate",
    )  # fmt: skip

    def __init__(self, event: Event, parts: tuple[bytes, ...]) -> None:
        self.event: str = event.event
        self.function = event.function
        self.operation = event.operation
        self.encoding = event.encoding
        self.protocol: str | None = event.protocol
        self.role = event.role
        self.outcome: str | None = event.outcome
        self.sqlstate = event.sqlstate
        self.parts = parts

    def __repr__(self) -> str:
        return f"_Pattern({self.event})"

    def fits(self, event: Event) -> bool:
        return (
            event.event is self.event
            and event.function is self.function
            and event.operation is self.operation
            and event.encoding is self.encoding
            and event.protocol is self.protocol
            and (event.role is self.role or event.role == self.role)
            and event.outcome is self.outcome
            and event.sqlstate is self.sqlstate
        )


class Lines:
    """The chain of one instance in the making: events in, lines out."""

    def __init__(self, mask: NameMask, instance: uuid.UUID) -> None:
        self.seq = 0
        self.last_hash = chain.GENESIS
        self._mask = mask
        self._instance = str(instance)
        instance_parts = _parts((self._instance, _INSTANCE_AT))
        self._instance_part = b"" if instance_parts is None else instance_parts[0]
        # Of names that were not masked: a value that slipped into a name's place is not kept.
        self._texts: dict[str, str] = {}
        self._elements: dict[str, str] = {}
        # Names that are not masked, and that stand in an array as they are.
        self._simple: set[str] = set()
        self._uuids: dict[int, str] = {}
        self._codec = ""
        self._second = -1
        self._moment = ""
        self._random = b""
        self._drawn = 0
        # By fingerprints.
        self._patterns: dict[str, _Pattern] = {}
        # Characters of names that the statement whose events are taken may still have.
        self.names_left = STATEMENT_NAMES
        # The names that were cut off last, and their replacement: a statement's rows may have the same ones.
        self._cut: tuple[Sequence[str | None], int, str] | None = None

    def __repr__(self) -> str:
        return f"Lines({self._instance}, {self.seq})"

    def take(self, events: list[Event], at: int, now: float, rows: deque[Line]) -> int:
        """Makes the lines of a statement's events and appends them to `rows`; gives their bytes. `now` is in seconds
        of a clock that never goes back, by which a statement's first event says when it began."""
        self.names_left = STATEMENT_NAMES
        size = 0
        crowded = len(rows) >= _PACKED_AHEAD
        for event in events:
            duration = None
            timing = event.timing
            if event.event == "access" or event.event == "outcome":
                began = timing.began
                duration = None if began is None else now - began
            elif timing.began is None:
                timing.began = now
            line = self.add(event, at, duration)
            size += len(line.line)
            if crowded:
                line.forget_packed()
            rows.append(line)
        return size

    def add(self, event: Event, at: int, duration: float | None) -> Line:
        """Makes the next line; `at` is in microseconds since the Unix epoch, `duration` in seconds.

        The columns of the first version are written out, which takes a third less time than a loop over the table; a
        test compares both.
        """
        # Long because the columns are written out, see above.
        who = event.who
        if self._codec != self._mask.codec:
            self._codec = self._mask.codec
            self._texts.clear()
            self._elements.clear()
            self._simple.clear()
            self._patterns.clear()
        known = self._known(who)
        if _WRITES and event.fingerprint is not None and event.via is None:
            pattern = self._patterns.get(event.fingerprint)
            if pattern is not None and pattern.fits(event):
                of_pattern = self._of_pattern(pattern, event, known, at, duration)
                if of_pattern is not None:
                    return of_pattern
        seq = self.seq + 1
        names, via, role = event.secret_names, event.via, event.role
        statement_no, accessed_by, owner, calls = event.statement_no, event.accessed_by, event.owner_id, event.calls
        sqlstate, fingerprint = event.sqlstate, event.fingerprint
        # What may be escaped; the rest is words, numbers and the proxy's own.
        function = "" if event.function is None else self._text(event.function)
        secrets = "" if names is None else self._array(names)
        path = "" if via is None else self._array(via)
        set_role = "" if role is None else self._text(role)
        code = "" if sqlstate is None else chain.text(sqlstate)
        kind = "" if fingerprint is None else chain.text(fingerprint)
        is_plain = known.is_plain and not (
            "\\" in secrets or "\\" in function or "\\" in path or "\\" in set_role or "\\" in code or "\\" in kind
        )
        text = "\t".join(
            [
                self._instance,
                str(seq),
                self._id(),
                self._at(at),
                event.event,
                known.session,
                "\\N" if statement_no is None else str(statement_no),
                "\\N" if event.function is None else function,
                event.operation or "\\N",
                "\\N" if owner is None else self._uuid(owner),
                "\\N" if names is None else secrets,
                event.encoding or "\\N",
                "\\N" if via is None else path,
                event.protocol or "\\N",
                "\\N" if fingerprint is None else kind,
                known.user,
                "\\N" if role is None else set_role,
                "\\N" if accessed_by is None else self._uuid(accessed_by),
                known.tail,
                event.outcome or "\\N",
                "\\N" if sqlstate is None else code,
                "\\N" if duration is None else _seconds(duration),
                "\\N" if calls is None else str(calls),
            ]
        )
        if ADDED:
            is_plain = False
            text += "".join(["\t" + self.written(column, event) for column in ADDED])
        if _WRITES and fingerprint is not None and via is None:
            self._learn(event, function, set_role, kind)
        return self._linked(seq, text.encode("utf-8"), is_plain)

    def _linked(self, seq: int, line: bytes, is_plain: bool) -> Line:
        before = self.last_hash
        self.last_hash = chain.link(before, line)
        self.seq = seq
        return Line(seq, line, before, self.last_hash, is_plain)

    def _learn(self, event: Event, function: str, role: str, kind: str) -> None:
        """Remembers the pattern of an event, with the texts of these columns. No text that is masked or escaped is
        remembered."""
        fingerprint, sqlstate = event.fingerprint, event.sqlstate
        assert fingerprint is not None
        if event.function != function or (event.role is not None and event.role != role) or "\\" in f"{function}{role}":
            return
        if kind != fingerprint or "\\" in kind or (sqlstate is not None and not sqlstate.isalnum()):
            return
        parts = _parts(
            (event.event, _EVENT_AT),
            ("\t".join([function, event.operation or "\\N"]), _FUNCTION_AT),
            ("\t".join([event.encoding or "\\N", "\\N", event.protocol or "\\N", kind]), _ENCODING_AT),
            ("\\N" if event.role is None else role, _ROLE_AT),
            ("\t".join([event.outcome or "\\N", "\\N" if sqlstate is None else sqlstate]), _OUTCOME_AT),
        )
        if parts is None:
            return
        if len(self._patterns) >= _KEPT_TEXTS:
            self._patterns.clear()
        self._patterns[fingerprint] = _Pattern(event, parts)

    def _of_pattern(
        self, pattern: _Pattern, event: Event, known: _Known, at: int, duration: float | None
    ) -> Line | None:
        """Makes the next line of what is written already and what an event has of its own; None where that is not of
        the commonest form."""
        of_identity = known.parts
        if of_identity is None:
            return None
        names = event.secret_names
        names_left = self.names_left
        array: str | bytes | None = None
        if names is not None:
            array = self._array_given(names)
            if array is None:
                self.names_left = names_left
                return None
        drawn = self._draw()
        seq = self.seq + 1
        before = self.last_hash
        made = _write_linked(
            before,
            self._instance_part,
            seq,
            self._random,
            drawn,
            at,
            pattern.parts,
            of_identity,
            event.statement_no,
            event.owner_id,
            array,
            event.accessed_by,
            duration,
            event.calls,
        )
        if made is None:
            self.names_left = names_left
            return None
        line, row_hash, in_binary_form = made
        self.seq = seq
        self.last_hash = row_hash
        return Line(seq, line, before, row_hash, False, in_binary_form)

    def _array_given(self, names: Sequence[str | None]) -> str | bytes | None:
        """Gives secrets' names for a row that is written in C, and takes them from names_left; None where they are not
        of the commonest form."""
        only = names[0] if len(names) == 1 else None
        if only is None:
            return _part(self._array(names).encode("utf-8"), _NAMES_AT)
        if only not in self._simple:
            if not self._mask(only) == only == chain.text(chain.element(only)):
                return _part(self._array(names).encode("utf-8"), _NAMES_AT)
            if len(self._simple) >= _KEPT_NAMES:
                self._simple.clear()
            self._simple.add(only)
        if len(only) > self.names_left:
            return None
        self.names_left -= len(only)
        return only

    def _known(self, who: Identity) -> _Known:
        """Gives what is written of an identity, which keeps it."""
        kept = who.as_logged
        if kept:
            known = cast(_Known, kept[0])
            if known.codec == self._codec:
                return known
        mask = self._mask
        rest = (mask(who.database), mask(who.application_name), _address(who.client_addr), who.client_port, who.tls)
        written = [chain.field(value) for value in rest]
        tail = "\t".join(written)
        user = chain.field(mask(who.db_user))
        is_plain = f"{user}\t{tail}".count("\\") == [user, *written].count("\\N")
        known = _Known(str(who.session_id), user, tail, self._codec, is_plain)
        kept[:] = [known]
        return known

    def written(self, column: LogColumn, event: Event) -> str:
        """Writes a value of an event or its identity as the table says: how the columns that were added are written."""
        value = getattr(event.who if column.source == "identity" else event, column.name)
        if value is None:
            return "\\N"
        if column.form == "word":
            return str(value) or "\\N"
        if column.form == "name":
            return self._text(value)
        if column.form == "names":
            return self._array(value)
        return chain.field(_address(value) if column.form == "address" else value)

    def _text(self, value: str) -> str:
        known = self._texts.get(value)
        if known is None:
            masked = self._mask(value) or ""
            known = chain.text(masked)
            if masked == value:
                if len(self._texts) >= _KEPT_TEXTS:
                    self._texts.clear()
                self._texts[value] = known
        return known

    def _uuid(self, value: uuid.UUID) -> str:
        number: int = value.int
        known = self._uuids.get(number)
        if known is None:
            known = str(value)
            if len(self._uuids) >= _KEPT_TEXTS:
                self._uuids.clear()
            self._uuids[number] = known
        return known

    def _array(self, values: Sequence[str | None]) -> str:
        if len(values) > _MANY:
            return self._many(values)
        if len(values) == 1:
            only = values[0]
            made = "NULL" if only is None else self._element(only)
        else:
            made = ",".join(["NULL" if value is None else self._element(value) for value in values])
        if len(made) > ROW_NAMES or len(made) > self.names_left:
            return self._many(values)
        self.names_left -= len(made)
        return "{" + made + "}"

    def _many(self, values: Sequence[str | None]) -> str:
        """Lists as many names as fit, then a text with the count of the others."""
        left = min(ROW_NAMES, self.names_left)
        shown: list[str] = []
        for value in values:
            made = "NULL" if value is None else self._element(value)
            left -= len(made) + 1
            if left < 0:
                shown.append(self._others(values, len(shown)))
                break
            shown.append(made)
        array = "{" + ",".join(shown) + "}"
        self.names_left -= len(array)
        return array

    def _others(self, values: Sequence[str | None], shown: int) -> str:
        cut = self._cut
        if cut is None or cut[0] is not values or cut[1] != shown:
            rest = b"\0".join([name_bytes(value or "") for value in values[shown:]])
            text = f"{self._mask.masked(rest)} (more names: {len(values) - shown})"
            cut = self._cut = (values, shown, chain.text(chain.element(text)))
        return cut[2]

    def _element(self, value: str) -> str:
        known = self._elements.get(value)
        if known is None:
            masked = self._mask(value) or ""
            known = chain.text(chain.element(masked))
            if masked == value:
                if len(self._elements) >= _KEPT_NAMES:
                    self._elements.clear()
                self._elements[value] = known
        return known

    def _at(self, at: int) -> str:
        second = at // 1_000_000
        if second != self._second:
            self._second = second
            self._moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))
        micros = at - second * 1_000_000
        if micros == 0:
            return self._moment + "+00"
        return self._moment + "." + str(1_000_000 + micros)[1:].rstrip("0") + "+00"

    def _draw(self) -> int:
        """Draws sixteen random bytes; gives where they stand in those that are drawn at a time."""
        drawn = self._drawn
        if drawn == len(self._random):
            self._random = os.urandom(_RANDOM)
            drawn = 0
        self._drawn = drawn + 16
        return drawn

    def _id(self) -> str:
        """Makes a random UUID (version 4)."""
        at = self._draw()
        drawn = self._random[at : at + 16].hex()
        return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-{'89ab'[int(drawn[16], 16) & 3]}{drawn[17:20]}-{drawn[20:]}"
