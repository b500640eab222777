"""The columns of secretproxy.access_log, in one table. Pure; everything that reads, writes or describes the log derives
from it at import.

To add a column: an entry at the end of TABLE with `added=True`, a change in sql/ that adds it to the table, and a test.
A value that the session must supply first needs a field of that name in session.events.Event or Identity. Derived from
the table are

    rows           the line of an event, INSERT, what stands in a line
    spool_review   the reader of a spool
    exports        JSON, CSV and parquet, and their reader
    verify, intact the line that a hash covers, the types that the log's tables must have
    docs           the table in docs/reviewing-the-log.md, which `make example` writes
"""

from __future__ import annotations

from typing import Literal, NamedTuple

# Where a value comes from: the journal numbers, dates and links a row; the identity is the session's; the rest is the
# event's own.
Source = Literal["journal", "event", "identity"]
# How a value is written. `word`: a word of ours, as it is. `text`: escaped. `name`, `names`: what a client chose,
# masked, then escaped.
Form = Literal["word", "text", "name", "names", "number", "seconds", "uuid", "address", "flag", "moment", "hash"]


class LogColumn(NamedTuple):
    """A column: its name, its type in SQL, where its value comes from, how that is written, and what it means."""

    name: str
    type: str
    source: Source
    form: Form
    meaning: str
    # Added after the log's first version: a hash covers a line up to its last added column that is not NULL. So older
    # hashes still fit.
    added: bool = False
    # Whether a text may be empty, which CSV does not tell from NULL.
    may_be_empty: bool = False


TABLE = (
    LogColumn("id", "uuid", "journal", "uuid", "The row's own random id"),
    LogColumn("at", "timestamptz", "journal", "moment", "When the event happened, by the proxy's clock"),
    LogColumn(
        "event",
        "text",
        "event",
        "word",
        "`attempt`, `call`, `outcome`; `access`, which is these in one row; `definition`, `table`, `refusal`, "
        "`forgery`, `direct`, or `review`: somebody read the log itself",
    ),
    LogColumn(
        "instance",
        "uuid",
        "journal",
        "uuid",
        "The process that wrote the row, a proxy's or a console's; NULL for a direct call",
    ),
    LogColumn(
        "seq", "int8", "journal", "number", "The row's number in its instance's chain, from 1; NULL for a direct call"
    ),
    LogColumn("prev_hash", "bytea", "journal", "hash", "The hash of the row before"),
    LogColumn("row_hash", "bytea", "journal", "hash", "SHA-256 over the hash before and the row's line"),
    LogColumn("session_id", "uuid", "identity", "uuid", "The client's session; of a review, the reviewer's"),
    LogColumn(
        "statement_no", "int8", "event", "number", "The statement's number in its session; of a review, the page's"
    ),
    LogColumn(
        "function",
        "text",
        "event",
        "name",
        "Signature of the function; of a review, the page or command",
        may_be_empty=True,
    ),
    LogColumn("operation", "text", "event", "word", "`read`, `write`, `verify` or `delete`"),
    LogColumn("owner_id", "uuid", "event", "uuid", "Owner of the secret; NULL where nothing shows it"),
    LogColumn("secret_names", "text[]", "event", "names", "Names of the secrets; NULL where nothing shows them"),
    LogColumn("encoding", "text", "event", "word", "How the value is stored: `pgp`, `crypt` or `none`"),
    LogColumn(
        "via",
        "text[]",
        "event",
        "names",
        "Signatures of the functions on the call path; of a review, its filter: name and value in turn",
    ),
    LogColumn("protocol", "text", "event", "word", "`simple`, `extended` or `fastpath`"),
    LogColumn(
        "fingerprint",
        "text",
        "event",
        "text",
        "Tells statements apart without their text; of a sign-off, the rows that it is of",
        may_be_empty=True,
    ),
    LogColumn(
        "db_user", "text", "identity", "name", "The database login; of a review, the reviewer's", may_be_empty=True
    ),
    LogColumn("role", "text", "event", "name", "The current role, where testimony says it", may_be_empty=True),
    LogColumn("accessed_by", "uuid", "event", "uuid", "The user of the claim `jwt.claims.user_id`"),
    LogColumn("database", "text", "identity", "name", "The database of the session", may_be_empty=True),
    LogColumn("application_name", "text", "identity", "name", "The application's name for itself", may_be_empty=True),
    LogColumn("client_addr", "inet", "identity", "address", "The client's address; NULL for a Unix socket"),
    LogColumn("client_port", "int4", "identity", "number", "The client's port"),
    LogColumn("tls", "bool", "identity", "flag", "Whether the client's connection is encrypted"),
    LogColumn("outcome", "text", "event", "word", "`ok`, `error`, `cancelled`, `lost` or `refused`"),
    LogColumn("sqlstate", "text", "event", "text", "SQLSTATE of an error"),
    LogColumn("duration", "float8", "journal", "seconds", "Seconds from the statement's begin to its end"),
    LogColumn("calls", "int8", "event", "number", "Executions of this call that the backend testified to"),
)

NAMES = tuple(column.name for column in TABLE)
TYPES = {column.name: column.type for column in TABLE}
# What a chain covers, in the order of its lines: the instance and the number, then all but the two hashes.
CHAINED = ("instance", "seq", *(name for name in NAMES if name not in ("instance", "seq", "prev_hash", "row_hash")))
# What is written, in the order of a line.
STORED = (*CHAINED, "prev_hash", "row_hash")
BY_NAME = {column.name: column for column in TABLE}
# The columns at the end of a line that were added.
ADDED = tuple(column for column in TABLE if column.added)
assert TABLE[len(TABLE) - len(ADDED) :] == ADDED, "columns that were added stand at the end of the table"
assert all(column.source != "journal" for column in ADDED), "what the journal itself says is written by rows.Lines.add"

# The words that these columns may have. The table takes others too, which `audit verify` then names.
WORDS = {
    "event": (
        "attempt", "call", "outcome", "definition", "table", "refusal", "forgery", "direct", "review", "access",
    ),
    "operation": ("read", "write", "verify", "delete"),
    "protocol": ("simple", "extended", "fastpath"),
    "outcome": ("ok", "error", "cancelled", "lost", "refused"),
}  # fmt: skip

_SOURCES = {"journal": "the proxy", "event": "the statement", "identity": "the session"}


def reference() -> str:
    """Gives the table of the columns for people, in Markdown."""
    lines = ["| column | type | of | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{column.name}` | {column.type} | {_SOURCES[column.source]} | {column.meaning} |" for column in TABLE]
    return "\n".join(lines) + "\n"
