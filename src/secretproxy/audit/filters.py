"""Makes the filter of a review from options: as conditions in SQL and as a test of one row; parses times and uuids.

Pure: no connection, nothing printed. A uuid may be given by its beginning; `audit.review.resolved` finds the one that
is meant."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from secretproxy.audit.columns import WORDS
from secretproxy.audit.masking import RESERVED, NameMask, name_bytes
from secretproxy.audit.visible import logged, shown_bytes
from secretproxy.config import ConfigError
from secretproxy.session.encodings import codec

OPERATIONS = WORDS["operation"]
# An access whose outcome the log does not have ended in an unknown way.
OUTCOMES = (*WORDS["outcome"], "unknown")
# How a value is stored, how the log came to know of an access, and by which protocol its statement came.
STORED_AS = ("pgp", "crypt", "none")
KINDS = ("attempt", "access", "call", "direct", "refusal")
PROTOCOLS = WORDS["protocol"]
EQUAL = "OPERATOR(pg_catalog.=)"
AT_LEAST = "OPERATOR(pg_catalog.>=)"
BELOW = "OPERATOR(pg_catalog.<)"
# In hours: to subtract a day PostgreSQL uses the calendar, which takes longer than the rest of a join's work for a row.
EARLIEST = "{}.at OPERATOR(pg_catalog.>=) (a.at OPERATOR(pg_catalog.-) interval '24 hours')"
STATEMENT = f"o.session_id {EQUAL} a.session_id AND o.statement_no {EQUAL} a.statement_no AND o.event {EQUAL} 'outcome'"


def _same(column: str) -> str:
    return f"(o.{column} {EQUAL} a.{column} OR (o.{column} IS NULL AND a.{column} IS NULL))"


# A statement whose attempts did different things has an outcome for each of them, which names it. All say alike how the
# statement ended.
OWN_OUTCOME = f"""{STATEMENT} AND {EARLIEST.format("o")}
   AND (o.function IS NULL OR a.event OPERATOR(pg_catalog.<>) 'attempt'
        OR (o.function {EQUAL} a.function AND {_same("owner_id")} AND {_same("secret_names")}))"""


def _ending(column: str) -> str:
    """Gives SQL for what the latest outcome of an access says in a column; NULL if it has none."""
    return (
        f"(SELECT o.{column} FROM secretproxy.access_log o WHERE {OWN_OUTCOME}"  # noqa: S608 - constant text
        " ORDER BY o.at DESC, o.seq DESC LIMIT 1)"
    )


# How an access ended: `a` is its row, `o` the outcome of its statement.
OUTCOME = f"CASE WHEN a.event {EQUAL} 'direct' THEN 'ok' ELSE coalesce(o.outcome, a.outcome, 'unknown') END"
# An attempt's role and user are known when its calls have testified; a call, direct or not, has its own.
ROLE = f"CASE WHEN a.event {EQUAL} 'attempt' THEN o.role ELSE a.role END"
ACCESSED_BY = f"CASE WHEN a.event {EQUAL} 'attempt' THEN o.accessed_by ELSE a.accessed_by END"
# Each has an index of its own.
FIRST_NAME = f"(a.secret_names IS NOT NULL AND a.secret_names[1] {EQUAL} ?)"
LATER_NAME = (
    "(pg_catalog.cardinality(a.secret_names) OPERATOR(pg_catalog.>) 1 AND a.secret_names OPERATOR(pg_catalog.@>) "
    "ARRAY[?::pg_catalog.text]"
    " AND (a.secret_names[1] IS NULL OR a.secret_names[1] OPERATOR(pg_catalog.<>) ?))"
)
# The same for a name of which the log can have several forms.
_SEVERAL = {
    FIRST_NAME: f"(a.secret_names IS NOT NULL AND a.secret_names[1] {EQUAL} ANY (?::pg_catalog.text[]))",
    LATER_NAME: (
        "(pg_catalog.cardinality(a.secret_names) OPERATOR(pg_catalog.>) 1 AND a.secret_names OPERATOR(pg_catalog.&&) "
        "?::pg_catalog.text[]"
        " AND (a.secret_names[1] IS NULL OR a.secret_names[1] OPERATOR(pg_catalog.<>) ALL (?::pg_catalog.text[])))"
    ),
}
# Long enough for every name: what is looked for is not masked.
_UNMASKED = 2**31
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_UUID = re.compile(r"[0-9a-f]{1,32}")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
# What a row alone does not show: it needs the outcome of its statement.
_ENDED = ("jwt_user", "role", "sqlstate", "calls", "duration")
# Options that take a uuid, and their columns.
UUIDS = {"owner": "owner_id", "jwt_user": "accessed_by", "session": "session_id", "instance": "instance", "id": "id"}
# What an access itself says: the filter's field, and the column that is to be the same.
_SAME = {
    "database": "database", "stored": "encoding", "how": "event", "protocol": "protocol", "fingerprint": "fingerprint",
}  # fmt: skip
_NUMBERS = {"port": "client_port", "statement": "statement_no", "seq": "seq"}
# What only the outcome may say of an attempt.
_OF_ATTEMPT = f"CASE WHEN a.event {EQUAL} 'attempt' THEN {{}} ELSE a.{{}} END"
_OUTCOME_OF_ACCESS = {
    "role": _OF_ATTEMPT.format(_ending("role"), "role"),
    "sqlstate": f"coalesce({_ending('sqlstate')}, a.sqlstate)",
    "calls": (
        f"CASE WHEN a.event {EQUAL} ANY (ARRAY['call', 'direct']::pg_catalog.text[]) THEN 1"
        f" WHEN a.event {EQUAL} 'access' THEN a.calls ELSE {_ending('calls')} END"
    ),
    "duration": f"coalesce({_ending('duration')}, a.duration)",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL with `?` where its value goes; whether it needs the outcome's row `o`."""

    text: str
    value: Any
    of_outcome: bool = False


# Fields of a filter that nobody asks for.
_NOT_ASKED = ("encoding", "absent")


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter of a review; None matches everything.

    `secret`: a name; `client`: an address or a network; uuids may be prefixes; `via`: a function on the call path;
    `duration`: seconds that it took at least; `stored`: how the value is stored; `how`: the event that it is.

    Names are as people know them, or as the log has them; `encoding` is that of the log's database.
    """

    since: datetime | None = None
    until: datetime | None = None
    owner: str | None = None
    secret: str | None = None
    user: str | None = None
    jwt_user: str | None = None
    function: str | None = None
    operation: str | None = None
    outcome: tuple[str, ...] = ()
    client: str | None = None
    application: str | None = None
    session: str | None = None
    role: str | None = None
    sqlstate: str | None = None
    calls: str | None = None
    duration: str | None = None
    database: str | None = None
    stored: str | None = None
    via: str | None = None
    how: str | None = None
    protocol: str | None = None
    fingerprint: str | None = None
    port: str | None = None
    statement: str | None = None
    instance: str | None = None
    seq: str | None = None
    id: str | None = None
    encoding: str = "UTF8"
    # Whether it is known that the log has nothing of it.
    absent: bool = False

    def conditions(self, secret: str = "") -> list[Condition]:
        """Gives what a row has to fulfil; `secret` narrows down where the name stands. Raises ConfigError for
        nonsense."""
        return [
            *self._of_secret(secret), *self._of_user(), *self._of_call(), *self._of_client(), *self._of_row(),
            *self._of_ending(),
        ]  # fmt: skip

    def _of_secret(self, secret: str) -> list[Condition]:
        found: list[Condition] = []
        if self.since is not None:
            found.append(Condition(f"a.at {AT_LEAST} ?", self.since))
        if self.until is not None:
            found.append(Condition(f"a.at {BELOW} ?", self.until))
        if self.owner is not None:
            found += _uuid("a.owner_id", "--owner", self.owner)
        if self.secret is not None:
            forms = spellings(self.secret, self.encoding)
            parts = [secret] if secret else [FIRST_NAME, LATER_NAME]
            texts = parts if len(forms) == 1 else [_SEVERAL[part] for part in parts]
            found.append(Condition(f"({' OR '.join(texts)})", forms[0] if len(forms) == 1 else forms))
        return found

    def _of_user(self) -> list[Condition]:
        found: list[Condition] = []
        if self.user is not None:
            found.append(self._named("a.db_user", self.user))
        if self.jwt_user is not None:
            found += _uuid(ACCESSED_BY, "--jwt-user", self.jwt_user, of_outcome=True)
        return found

    def _of_call(self) -> list[Condition]:
        found: list[Condition] = []
        if self.function is not None:
            bare = "pg_catalog.split_part(a.function, '(', 1)"
            in_schema = "pg_catalog.concat('encrypted_secrets.', ?::pg_catalog.text)"
            text = f"(a.function {EQUAL} ? OR {bare} {EQUAL} ? OR {bare} {EQUAL} {in_schema})"
            found.append(Condition(text, spellings(self.function, self.encoding)[0]))
        if self.operation is not None:
            found.append(Condition(f"a.operation {EQUAL} ?", one_of("--operation", self.operation, OPERATIONS)))
        if self.outcome:
            kinds = [one_of("--outcome", kind, OUTCOMES) for kind in self.outcome]
            found.append(Condition(f"{OUTCOME} {EQUAL} ANY (?::pg_catalog.text[])", kinds, of_outcome=True))
        return found

    def _of_client(self) -> list[Condition]:
        found: list[Condition] = []
        if self.client is not None:
            found.append(Condition("a.client_addr OPERATOR(pg_catalog.<<=) ?", network(self.client)))
        if self.application is not None:
            found.append(self._named("a.application_name", self.application))
        if self.session is not None:
            found += _uuid("a.session_id", "--session", self.session)
        return found

    def _of_row(self) -> list[Condition]:
        found: list[Condition] = []
        known = {"stored": STORED_AS, "how": KINDS, "protocol": PROTOCOLS}
        for option, column in _SAME.items():
            value = getattr(self, option)
            if value is None:
                continue
            if option in known:
                found.append(Condition(f"a.{column} {EQUAL} ?", one_of(f"--{option}", value, known[option])))
            else:
                found.append(self._named(f"a.{column}", value))
        for option, column in _NUMBERS.items():
            value = getattr(self, option)
            if value is not None:
                found.append(Condition(f"a.{column} {EQUAL} ?::pg_catalog.int8", whole_number(f"--{option}", value)))
        if self.via is not None:
            bare = "pg_catalog.split_part(v.name, '(', 1)"
            text = (
                "EXISTS (SELECT FROM pg_catalog.unnest(a.via) AS v (name)"
                f" WHERE v.name {EQUAL} ?::pg_catalog.text OR {bare} {EQUAL} ?::pg_catalog.text)"
            )
            found.append(Condition(text, spellings(self.via, self.encoding)[0]))
        if self.instance is not None:
            found += _uuid("a.instance", "--instance", self.instance)
        if self.id is not None:
            found += _uuid("a.id", "--id", self.id)
        return found

    def _of_ending(self) -> list[Condition]:
        found: list[Condition] = []
        texts = _OUTCOME_OF_ACCESS
        if self.role is not None:
            found.append(self._named(f"({texts['role']})", self.role))
        if self.sqlstate is not None:
            if not _SQLSTATE.fullmatch(self.sqlstate):
                raise ConfigError("--sqlstate: five digits or capital letters, such as 42501")
            found.append(Condition(f"{texts['sqlstate']} {EQUAL} ?", self.sqlstate))
        if self.calls is not None:
            number = whole_number("--calls", self.calls)
            found.append(Condition(f"({texts['calls']}) {EQUAL} ?::pg_catalog.int8", number))
        if self.duration is not None:
            text = f"{texts['duration']} {AT_LEAST} ?::pg_catalog.float8"
            found.append(Condition(text, _seconds("--duration", self.duration)))
        return found

    def of_role(self, column: str) -> Condition:
        """Gives the condition that a column is the role that is looked for."""
        return self._named(column, self.role or "")

    def _named(self, column: str, name: str) -> Condition:
        forms = spellings(name, self.encoding)
        if len(forms) == 1:
            return Condition(f"{column} {EQUAL} ?", forms[0])
        return Condition(f"{column} {EQUAL} ANY (?::pg_catalog.text[])", forms)

    def where(self, secret: str = "", given: int = 0) -> tuple[str, list[Any]]:
        """Gives the conditions as SQL that begins with AND, and their values as parameters after `given` others.

        Raises ConfigError.
        """
        return joined(self.conditions(secret), given)

    @property
    def needs_outcome(self) -> bool:
        """Says whether the row alone cannot show that it matches."""
        return bool(self.outcome) or any(getattr(self, name) is not None for name in _ENDED)

    def asked(self) -> dict[str, str]:
        """Gives what was asked for, by the names of its fields, as a manifest names it."""
        given = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name not in _NOT_ASKED}
        return {
            name: ",".join(value) if isinstance(value, tuple) else str(value)
            for name, value in given.items()
            if value not in (None, ())
        }

    def before_its_end(self) -> Filter:
        """Gives the filter without what only an outcome has to tell."""
        return self.but(outcome=(), **dict.fromkeys(_ENDED))

    def but(self, **changes: Any) -> Filter:
        return dataclasses.replace(self, **changes)

    def fits(self, access: Mapping[str, Any]) -> bool:
        """Says whether an access, with its outcome, matches: the same as the conditions in SQL."""
        function = access["function"] or ""
        bare = function.partition("(")[0]
        names = {
            "db_user": self.user, "application_name": self.application, "database": self.database, "role": self.role,
            "fingerprint": self.fingerprint,
        }  # fmt: skip
        same = {"encoding": self.stored, "how": self.how, "protocol": self.protocol, "sqlstate": self.sqlstate}
        numbers = {
            "client_port": self.port, "statement_no": self.statement, "seq": self.seq, "calls": self.calls,
        }  # fmt: skip
        return (
            (self.operation is None or access["operation"] == self.operation)
            and all(name is None or access[column] in spellings(name, self.encoding) for column, name in names.items())
            and all(_begins(access[column], getattr(self, option)) for option, column in UUIDS.items())
            and (self.since is None or access["at"] >= self.since)
            and (self.until is None or access["at"] < self.until)
            and (
                self.secret is None
                or any(form in (access["secret_names"] or ()) for form in spellings(self.secret, self.encoding))
            )
            and (self.function is None or self.function in (function, bare, bare.removeprefix("encrypted_secrets.")))
            and (not self.outcome or access["outcome"] in self.outcome)
            and (self.client is None or _within(access["client_addr"], self.client))
            and all(value is None or access[column] == value for column, value in same.items())
            and all(value is None or access[column] == whole_number(column, value) for column, value in numbers.items())
            and (self.duration is None or self._took_long(access["duration"]))
            and (self.via is None or self._went_by(access["via"] or ()))
        )

    def _took_long(self, seconds: float | None) -> bool:
        return seconds is not None and seconds >= _seconds("--duration", self.duration or "")

    def _went_by(self, path: Iterable[str | None]) -> bool:
        wanted = spellings(self.via or "", self.encoding)[0]
        return any(name is not None and wanted in (name, name.partition("(")[0]) for name in path)


def _uuid(column: str, option: str, text: str, *, of_outcome: bool = False) -> list[Condition]:
    """Gives the conditions of a uuid or of a beginning of one."""
    first, last = uuid_range(option, text)
    if first == last:
        return [Condition(f"{column} {EQUAL} ?", first, of_outcome)]
    return [
        Condition(f"{column} {AT_LEAST} ?", first, of_outcome),
        Condition(f"{column} OPERATOR(pg_catalog.<=) ?", last, of_outcome),
    ]


def spellings(name: str, encoding: str = "UTF8") -> list[str]:
    """Gives the forms that a name may have in a log of that encoding, except cut names and digests: see
    masking.NameMask.

    Accepts the name itself and the log's form of it. `masked:x` may be the log's form, or a name that the log writes as
    `name:masked:x`.
    """
    mask = NameMask(_UNMASKED, (), b"")
    mask.stored_in(encoding)
    if encoding == "SQL_ASCII":
        # Texts are looked for in the form in which such a log's are shown: see reading.LogConnection. A direct call
        # wrote the bytes themselves, the proxy their escapes.
        visible = _shown_bytes(name)
        forms = [visible, shown_bytes(name_bytes(mask(logged(visible)) or ""))]
        if name.startswith("escaped:"):
            forms.append(shown_bytes(name_bytes(name)))
        return list(dict.fromkeys(forms))
    if name.isascii() and not name.startswith(RESERVED):
        return [name]
    stored = mask(name) or ""
    if not _storable(name, encoding):
        return [stored]
    return [name] if stored == name else [name, stored]


def _shown_bytes(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return shown_bytes(name_bytes(name))
    return name


def _storable(name: str, encoding: str) -> bool:
    try:
        name.encode(codec(encoding))
    except UnicodeEncodeError:
        return False
    return True


def joined(conditions: list[Condition], given: int = 0) -> tuple[str, list[Any]]:
    """Gives SQL that begins with AND, and its values as parameters after `given` others."""
    texts = [condition.text.replace("?", f"${given + place}") for place, condition in enumerate(conditions, 1)]
    return "".join(f" AND {text}" for text in texts), [condition.value for condition in conditions]


def _begins(value: Any, beginning: str | None) -> bool:
    return beginning is None or (value is not None and _digits(str(value)).startswith(_digits(beginning)))


def _within(address: Any, wanted: str) -> bool:
    if address is None:
        return False
    inside, outside = network(str(address)), network(wanted)
    return inside.version == outside.version and inside.subnet_of(outside)  # type: ignore[arg-type]


def _digits(text: str) -> str:
    return text.lower().replace("-", "").rstrip("…")


def uuid_range(option: str, text: str) -> tuple[uuid.UUID, uuid.UUID]:
    """Gives the first and the last uuid with this prefix. Raises ConfigError."""
    digits = _digits(text)
    if not _UUID.fullmatch(digits):
        raise ConfigError(
            f"{option}: not a uuid or the beginning of one, such as 6a8f3b1e-5c0d-4b0e-9a57-0d6b1c2f3a44 or 6a8f3b1e"
        )
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def whole_number(option: str, text: str) -> int:
    """Reads a number that a column of the log can hold. Raises ConfigError."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigError(f"{option}: not a whole number")
    return int(text)


def _seconds(option: str, text: str) -> float:
    """Reads a number of seconds, which may be a fraction. Raises ConfigError."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ConfigError(f"{option}: not a number of seconds, such as 0.25")
    return float(text)


def one_of(option: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ConfigError(f"{option}: one of {', '.join(known)}")
    return text


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError("--client: not an address or a network, such as 10.0.0.7 or 10.0.0.0/24") from None


def moment(option: str, text: str, now: datetime | None = None) -> datetime:
    """Parses `90m`, `2h`, `7d` (ago), `today`, `yesterday`, or an ISO 8601 date or time in this machine's zone.

    Raises ConfigError.
    """
    now = now or datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("now", "today", "yesterday"):
        return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[text]
    ago = re.fullmatch(r"(\d{1,6})\s*([smhdw])", text)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError):
        raise ConfigError(f"{option}: not a time; write 2h, 7d, yesterday, 2026-11-24 or 2026-11-24T09:30") from None


def duration(option: str, text: str) -> timedelta:
    """Parses `30s`, `10m`, `2h` or `7d`. Raises ConfigError."""
    given = re.fullmatch(r"(\d{1,6})\s*([smhdw])", text)
    if given is None or not int(given[1]):
        raise ConfigError(f"{option}: not a length of time; write 30s, 10m, 2h or 7d")
    return timedelta(**{_UNITS[given[2]]: int(given[1])})


def local_zone() -> tuple[str, str]:
    """Gives the name of this machine's time zone, and its distance from UTC today."""
    offset = f"{datetime.now().astimezone():%z}"
    named = os.environ.get("TZ", "").removeprefix(":") or os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    return (named if re.fullmatch(r"[A-Za-z0-9_+/-]{1,60}", named) else "UTC", f"{offset[:3]}:{offset[3:]}")
