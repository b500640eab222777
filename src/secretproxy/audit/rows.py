"""Events as lines of secretproxy.access_log, numbered and linked, and the one place where a name that looks like a value is masked.

A line is made once: the chain hashes it, the log takes it as it is, the spool keeps it. Pure, compiled by mypyc where that is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import time
import uuid
from collections.abc import Sequence

from secretproxy.audit import chain
from secretproxy.session.encodings import codec
from secretproxy.session.events import Event, Identity

COLUMNS = (
    "id", "at", "event", "instance", "seq", "prev_hash", "row_hash", "session_id", "statement_no", "function", "operation",
    "owner_id", "secret_names", "encoding", "via", "protocol", "fingerprint", "db_user", "role", "accessed_by", "database",
    "application_name", "client_addr", "client_port", "tls", "outcome", "sqlstate", "duration", "calls",
)  # fmt: skip
# What a chain covers, in the order of its lines: all but the two hashes.
CHAINED = ("instance", "seq", *(name for name in COLUMNS if name not in ("instance", "seq", "prev_hash", "row_hash")))
# What is written, in the order of a line.
STORED = (*CHAINED, "prev_hash", "row_hash")
TYPES = {
    "id": "uuid", "at": "timestamptz", "instance": "uuid", "seq": "int8", "prev_hash": "bytea", "row_hash": "bytea", "session_id": "uuid",
    "statement_no": "int8", "owner_id": "uuid", "secret_names": "text[]", "via": "text[]", "accessed_by": "uuid", "client_addr": "inet",
    "client_port": "int4", "tls": "bool", "duration": "float8", "calls": "int8",
}  # fmt: skip


def _insert(field: str, source: str) -> str:
    values = ", ".join(f"{field % place}::pg_catalog.{TYPES.get(name, 'text')}" for place, name in enumerate(STORED, 1))
    return f"INSERT INTO secretproxy.access_log ({', '.join(STORED)}) SELECT {values} {source} ON CONFLICT DO NOTHING"


# Takes the lines of a group in one parameter: a statement opens the table and its indexes once. Rows that the log has already stay single.
INSERT = _insert(
    "f[%d]",
    r"FROM (SELECT pg_catalog.string_to_array(l, E'\t', '\N') AS f FROM pg_catalog.string_to_table($1::pg_catalog.text, E'\n') AS l OFFSET 0) AS s",
)
# Takes the texts of one line's fields, where a field holds what those separators would mistake.
INSERT_ONE = _insert("$%d::pg_catalog.text", "")
# Encodings that PostgreSQL and Python map alike, character by character.
_ONE_BYTE = frozenset({"LATIN1", "LATIN2", "LATIN3", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10"})
# What is hashed for a mask begins with this: secretproxy.masked() of the backend half does the same with the same key.
_MASK = b"secretproxy name mask "
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# Characters of names (or of a call path) that a row may have, and those that are taken at a time, which is one statement's. What is
# beyond them stands there as a count and a keyed digest: a row that takes the log seconds would stop it for everybody.
ROW_NAMES, STATEMENT_NAMES = 256 * 1024, 1024 * 1024
_MANY = 64
# Texts of which the escaped and masked form is kept, and the random bytes that are drawn at a time.
_KEPT_TEXTS = 4096
_RANDOM = 4096


class Line:
    """A row of the log as it is written: its number, the line that its hash covers, and the two hashes."""

    __slots__ = ("line", "prev_hash", "row_hash", "seq")

    def __init__(self, seq: int, line: bytes, prev_hash: bytes, row_hash: bytes) -> None:
        self.seq = seq
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
        """The columns of STORED as a line for COPY, without its newline."""
        return b"%b\t\\\\x%b\t\\\\x%b" % (self.line, self.prev_hash.hex().encode(), self.row_hash.hex().encode())

    def plain(self) -> bytes | None:
        """The same for INSERT; None where a field is escaped."""
        if b"\\" in self.line.replace(b"\\N", b""):
            return None
        return b"%b\t\\x%b\t\\x%b" % (self.line, self.prev_hash.hex().encode(), self.row_hash.hex().encode())

    def after(self, before: bytes) -> Line:
        """The same line as the one that follows the hash `before`."""
        return Line(self.seq, self.line, before, chain.link(before, self.line))

    @property
    def instance(self) -> uuid.UUID:
        return uuid.UUID(self.line.partition(b"\t")[0].decode("ascii"))

    def fields(self) -> list[str | None]:
        """The same as the texts that INSERT_ONE takes."""
        return [
            None if field == "\\N" else _ESCAPED.sub(_unescaped, field) if "\\" in field else field
            for field in self.stored().decode("utf-8").split("\t")
        ]


def _unescaped(found: re.Match[str]) -> str:
    return _PLAIN.get(found[1], found[1])


def _address(found: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as the type inet has it: no zone, and IPv4 as such where it comes mapped into IPv6."""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found.scope_id is not None:
            return ipaddress.IPv6Address(int(found))
    return found


def stored_line(stored: bytes) -> Line:
    """The line that `Line.stored` gave. Raises ValueError."""
    rest, _, row_hash = stored.rpartition(b"\t")
    line, _, prev_hash = rest.rpartition(b"\t")
    return Line(
        int(line.split(b"\t", 2)[1]),
        line,
        bytes.fromhex(prev_hash[3:].decode("ascii")),
        bytes.fromhex(row_hash[3:].decode("ascii")),
    )


# What is written in a name's place begins with one of these where it is not the name as it is.
RESERVED = ("masked:", "escaped:", "name:")


def name_bytes(name: str) -> bytes:
    """The bytes of a name, those that are no UTF-8 included."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


class NameMask:
    """Masks what a client puts in the place of a name but which may be a value: too long, or of a secret's known shape.

    The mask is a keyed digest, so that equal texts can be seen to be equal by whoever holds the key, and not guessed by others.
    """

    def __init__(self, max_name: int, patterns: Sequence[str], key: bytes) -> None:
        self._max_name = max_name
        self._pattern = re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None
        self._key = key
        # Empty: every character can be stored.
        self.codec = ""

    def stored_in(self, encoding: str) -> None:
        """The encoding of the log's database: what it has no character for is written as an escape."""
        self.codec = "" if encoding in ("UTF8", "SQL_ASCII") else codec(encoding) if encoding in _ONE_BYTE else "ascii"

    def __repr__(self) -> str:
        return f"NameMask(max_name={self._max_name})"

    def __call__(self, name: str | None) -> str | None:
        if name is None:
            return None
        if "\0" in name:
            # NUL cannot be stored, and no name has one.
            name = name.replace("\0", "?")
        clean = name_bytes(name)
        if len(clean) > self._max_name or (self._pattern and self._pattern.search(name)):
            return self.masked(clean)
        try:
            name.encode(self.codec or "utf-8")
        except UnicodeEncodeError:
            return "escaped:" + "".join([self._escaped(character) for character in name])
        # A name that reads like what stands for another is told from it.
        return f"name:{name}" if name.startswith(RESERVED) else name

    def _escaped(self, character: str) -> str:
        """A byte that is no UTF-8 as \\xNN, what the log's database has no character for as \\uNNNN or \\UNNNNNNNN, a backslash doubled."""
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        if character == "\\":
            return "\\\\"
        try:
            character.encode(self.codec or "utf-8")
        except UnicodeEncodeError:
            return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        return character

    def masked(self, clean: bytes) -> str:
        """The mask of a name that must not be shown whatever it looks like."""
        return f"masked:{hmac.new(self._key, _MASK + clean, hashlib.sha256).hexdigest()[:32]}"


class Lines:
    """The chain of one instance in the making: events in, lines out."""

    def __init__(self, mask: NameMask, instance: uuid.UUID) -> None:
        self.seq = 0
        self.last_hash = chain.GENESIS
        self._mask = mask
        self._instance = str(instance)
        # Of names that were not masked: a value that slipped into a name's place is not kept.
        self._texts: dict[str, str] = {}
        self._elements: dict[str, str] = {}
        self._codec = ""
        self._second = -1
        self._moment = ""
        self._random = ""
        self._drawn = 0
        # Characters of names that the statement whose events are taken may still have.
        self.room = STATEMENT_NAMES
        # The names that were cut off last, and what stands for them: a statement's rows may have the same ones.
        self._cut: tuple[Sequence[str | None], int, str] | None = None

    def __repr__(self) -> str:
        return f"Lines({self._instance}, {self.seq})"

    def add(self, event: Event, at: int, duration: float | None) -> Line:
        """The next line; `at` is in microseconds since the Unix epoch."""
        who = event.who
        if self._codec != self._mask.codec:
            self._codec = self._mask.codec
            self._texts.clear()
            self._elements.clear()
        known = who.as_logged
        if not known or known[3] != self._codec:
            known[:] = self._known(who)
        seq = self.seq + 1
        names, via, role = event.secret_names, event.via, event.role
        statement_no, accessed_by, owner, calls = event.statement_no, event.accessed_by, event.owner_id, event.calls
        sqlstate, fingerprint = event.sqlstate, event.fingerprint
        line = "\t".join(
            (
                self._instance,
                str(seq),
                self._id(),
                self._at(at),
                event.event,
                known[0],
                "\\N" if statement_no is None else str(statement_no),
                "\\N" if event.function is None else self._text(event.function),
                event.operation or "\\N",
                "\\N" if owner is None else str(owner),
                "\\N" if names is None else self._array(names),
                event.encoding or "\\N",
                "\\N" if via is None else self._array(via),
                event.protocol or "\\N",
                "\\N" if fingerprint is None else chain.text(fingerprint),
                known[1],
                "\\N" if role is None else self._text(role),
                "\\N" if accessed_by is None else str(accessed_by),
                known[2],
                event.outcome or "\\N",
                "\\N" if sqlstate is None else chain.text(sqlstate),
                "\\N" if duration is None else chain.number(round(duration, 6)),
                "\\N" if calls is None else str(calls),
            )
        ).encode("utf-8")
        before = self.last_hash
        self.last_hash = chain.link(before, line)
        self.seq = seq
        return Line(seq, line, before, self.last_hash)

    def _known(self, who: Identity) -> tuple[str, str, str, str]:
        """Of an identity: the session, the user, the columns from the database to tls, and what they were made for."""
        mask = self._mask
        rest = (mask(who.database), mask(who.application_name), _address(who.client_addr), who.client_port, who.tls)
        tail = "\t".join([chain.field(value) for value in rest])
        return str(who.session_id), chain.field(mask(who.db_user)), tail, self._codec

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

    def _array(self, values: Sequence[str | None]) -> str:
        if len(values) > _MANY:
            return self._many(values)
        made = ",".join(["NULL" if value is None else self._element(value) for value in values])
        if len(made) > ROW_NAMES or len(made) > self.room:
            return self._many(values)
        self.room -= len(made)
        return "{" + made + "}"

    def _many(self, values: Sequence[str | None]) -> str:
        """As many as there is room for, then a text that counts the others."""
        room = min(ROW_NAMES, self.room)
        shown: list[str] = []
        for value in values:
            made = "NULL" if value is None else self._element(value)
            room -= len(made) + 1
            if room < 0:
                shown.append(self._others(values, len(shown)))
                break
            shown.append(made)
        array = "{" + ",".join(shown) + "}"
        self.room -= len(array)
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
                if len(self._elements) >= _KEPT_TEXTS:
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

    def _id(self) -> str:
        """A random UUID (version 4)."""
        if self._drawn == len(self._random):
            self._random = os.urandom(_RANDOM).hex()
            self._drawn = 0
        drawn = self._random[self._drawn : self._drawn + 32]
        self._drawn += 32
        return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-{'89ab'[int(drawn[16], 16) & 3]}{drawn[17:20]}-{drawn[20:]}"
