"""Events as rows of secretproxy.access_log, and the one place where a name that looks like a value is masked. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Sequence
from datetime import datetime

from secretproxy.session.encodings import codec
from secretproxy.session.events import Event

COLUMNS = (
    "id", "at", "event", "instance", "seq", "prev_hash", "row_hash", "session_id", "statement_no", "function", "operation",
    "owner_id", "secret_names", "encoding", "via", "protocol", "fingerprint", "db_user", "role", "accessed_by", "database",
    "application_name", "client_addr", "client_port", "tls", "outcome", "sqlstate", "duration", "calls",
)  # fmt: skip
INSERT = (
    f"INSERT INTO secretproxy.access_log ({', '.join(COLUMNS)}) "  # noqa: S608 - constant column names
    f"VALUES ({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 1))}) ON CONFLICT DO NOTHING"
)
# What a chain covers, in the order of its lines: all but the two hashes.
CHAINED = ("instance", "seq", *(name for name in COLUMNS if name not in ("instance", "seq", "prev_hash", "row_hash")))
CHAINED_AT = tuple(COLUMNS.index(name) for name in CHAINED)
INSTANCE, SEQ = COLUMNS.index("instance"), COLUMNS.index("seq")
PREV_HASH = COLUMNS.index("prev_hash")
ROW_HASH = COLUMNS.index("row_hash")

# Encodings that PostgreSQL and Python map alike, character by character.
_ONE_BYTE = frozenset({"LATIN1", "LATIN2", "LATIN3", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10"})

Row = tuple[object, ...]

# What is hashed begins with this: secretproxy.masked() of the backend half does the same with the same key.
_MASK = b"secretproxy name mask "


class NameMask:
    """Masks what a client puts in the place of a name but which may be a value: too long, or of a secret's known shape.

    The mask is a keyed digest, so that equal texts can be seen to be equal by whoever holds the key, and not guessed by others.
    """

    def __init__(self, max_name: int, patterns: Sequence[str], key: bytes) -> None:
        self._max_name = max_name
        self._pattern = re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None
        self._key = key
        self._codec: str | None = None

    def stored_in(self, encoding: str) -> None:
        """The encoding of the log's database: what it has no character for is written as an escape."""
        self._codec = None if encoding in ("UTF8", "SQL_ASCII") else codec(encoding) if encoding in _ONE_BYTE else "ascii"

    def __repr__(self) -> str:
        return f"NameMask(max_name={self._max_name})"

    def __call__(self, name: str | None) -> str | None:
        if name is None:
            return None
        # NUL cannot be stored, and neither can half a surrogate pair.
        clean = name.encode("utf-8", "replace").replace(b"\0", b"?")
        if len(clean) <= self._max_name and not (self._pattern and self._pattern.search(name)):
            text = clean.decode()
            return text if self._codec is None else text.encode(self._codec, "backslashreplace").decode(self._codec)
        return self.masked(clean)

    def masked(self, clean: bytes) -> str:
        """The mask of a name that must not be shown whatever it looks like."""
        return f"masked:{hmac.new(self._key, _MASK + clean, hashlib.sha256).hexdigest()[:32]}"


def row(
    event: Event,
    mask: NameMask,
    *,
    instance: uuid.UUID,
    seq: int,
    at: datetime,
    duration: float | None,
    row_id: uuid.UUID,
) -> list[object]:
    """The row in the order of COLUMNS; the hashes are still None."""
    who = event.who
    return [
        row_id,
        at,
        event.event,
        instance,
        seq,
        None,
        None,
        who.session_id,
        event.statement_no,
        mask(event.function),
        event.operation,
        event.owner_id,
        None if event.secret_names is None else [mask(name) for name in event.secret_names],
        event.encoding,
        None if event.via is None else [mask(step) for step in event.via],
        event.protocol,
        event.fingerprint,
        mask(who.db_user),
        mask(event.role),
        event.accessed_by,
        mask(who.database),
        mask(who.application_name),
        who.client_addr,
        who.client_port,
        who.tls,
        event.outcome,
        event.sqlstate,
        duration,
        event.calls,
    ]
