"""Questions about one secret, one login or one incident, and accesses by time and hour; the same for the command line
and the console.

Functions take a connection and a Filter and give rows; they print nothing. May import asyncpg.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from secretproxy.audit.counting import LOOKED_UP, Accesses, looked_at, settle, stretch
from secretproxy.audit.filters import ACCESSED_BY, EQUAL, OPERATIONS, OUTCOME, OUTCOMES, Filter, joined, spellings
from secretproxy.audit.records import plain
from secretproxy.audit.review import ACCESS_EVENTS, LOG, OUTCOME_OF, Question, logins_like, resolved
from secretproxy.config import ConfigError
from secretproxy.wire.types import SqlState

_SPAN = "pg_catalog.count(*) AS n, pg_catalog.min(a.at) AS first, pg_catalog.max(a.at) AS last"
# Secrets of one incident that a page looks into, and that one question asks about.
MOST_TOUCHED = 2000


async def _asked(
    connection: Any, wanted: Filter, columns: str, keys: int, *, outcomes: bool = False, looked_up: bool = False
) -> list[Any]:
    """Asks for `columns` of the accesses, grouped by the first `keys` of them; a group may come several times.

    `looked_up`: few match, so that what belongs to each is looked up."""
    source: Accesses = await looked_at(connection, wanted)
    source.vague = True
    source.ends_before = None
    group = " GROUP BY " + ", ".join(str(place) for place in range(1, keys + 1))
    async with connection.transaction(isolation="repeatable_read"):
        await settle(connection, source)
        if looked_up:
            await connection.execute(LOOKED_UP)
        asked = source.query(columns, outcomes=outcomes, group=group)
        return list(await connection.fetch(asked.sql, *asked.values))


def _merged(rows: Iterable[Any], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Groups of several queries as one each, the most used first."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(tuple(row[name]) if isinstance(row[name], list) else row[name] for name in keys)
        known = found.get(key)
        if known is None:
            found[key] = dict(row)
        else:
            known["n"] += row["n"]
            known["first"], known["last"] = min(known["first"], row["first"]), max(known["last"], row["last"])
    return sorted(found.values(), key=lambda row: (-row["n"], *(str(row[name]) for name in keys)))


async def users_of(connection: Any, wanted: Filter) -> list[dict[str, Any]]:
    """Gives who made these accesses: login, application and address, how often, when first and last.

    Raises ConfigError.
    """
    rows = await _asked(connection, wanted, f"a.db_user, a.application_name, a.client_addr, {_SPAN}", 3)
    return _merged(rows, ("db_user", "application_name", "client_addr"))


async def secrets_of(connection: Any, wanted: Filter) -> list[dict[str, Any]]:
    """Gives which secrets these accesses were of, how often, when first and last; `new`: no access before `since`.

    Raises ConfigError.
    """
    columns, keys = f"a.owner_id, a.secret_names, {_SPAN}", ("owner_id", "secret_names")
    rows = _merged(await _asked(connection, wanted, columns, 2), keys)
    earlier: set[tuple[Any, Any]] = set()
    if wanted.since is not None:
        before = wanted.but(since=None, until=wanted.since)
        earlier = {_key(row) for row in await _asked(connection, before, columns, 2)}
    for row in rows:
        row["new"] = wanted.since is not None and None not in _key(row) and _key(row) not in earlier
    return rows


def _key(row: Any) -> tuple[Any, Any]:
    names = row["secret_names"]
    return row["owner_id"], None if names is None else tuple(names)


async def last_writes(connection: Any, wanted: Filter) -> dict[tuple[Any, Any], datetime]:
    """Gives the last successful write of a filter's secrets, by owner and name. Raises ConfigError."""
    rows = await _asked(
        connection, wanted.but(operation="write", outcome=("ok",)), f"a.owner_id, a.secret_names, {_SPAN}", 2
    )  # fmt: skip
    # A statement may also write others.
    forms = None if wanted.secret is None else spellings(wanted.secret, wanted.encoding)
    found: dict[tuple[Any, Any], datetime] = {}
    for row in rows:
        for name in row["secret_names"] or ():
            if forms is not None and name not in forms:
                continue
            key = (row["owner_id"], name)
            found[key] = max(found.get(key, row["last"]), row["last"])
    return found


_DAY = "pg_catalog.date_part('isodow', pg_catalog.timezone('UTC', a.at))::int"
_HOUR = "pg_catalog.date_part('hour', pg_catalog.timezone('UTC', a.at))::int"


async def hours_of(connection: Any, wanted: Filter) -> Counter[tuple[int, int]]:
    """Accesses by weekday (0 is Monday) and hour, both in UTC. Raises ConfigError."""
    found: Counter[tuple[int, int]] = Counter()
    for row in await _asked(connection, wanted, f"{_DAY} AS day, {_HOUR} AS hour, pg_catalog.count(*) AS n", 2):
        found[row["day"] - 1, row["hour"]] += row["n"]
    return found


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """Accesses from `at` on, by operation or by how they ended."""

    at: datetime
    counts: dict[str, int]


async def timeline(
    connection: Any, wanted: Filter, since: datetime, until: datetime, step: timedelta
) -> list[TimelineStep]:
    """Accesses by operation in steps of time from `since` until `until`; steps without any too. Raises ConfigError."""
    seconds = int(step.total_seconds())
    bucket = f"{stretch(seconds)} AS bucket"
    found: dict[int, Counter[str]] = {}
    for row in await _asked(
        connection, wanted.but(since=since, until=until), f"{bucket}, a.operation, pg_catalog.count(*) AS n", 2
    ):  # fmt: skip
        found.setdefault(row["bucket"], Counter())[row["operation"] or "unknown"] += row["n"]
    first, last = int(since.timestamp()) // seconds, int(until.timestamp()) // seconds
    return [
        TimelineStep(datetime.fromtimestamp(number * seconds, UTC), dict(found.get(number, {})))
        for number in range(first, last + 1)
    ]


# How accesses ended, a denial (insufficient_privilege) apart from other errors.
ENDINGS = ("ok", "denied", "error", "cancelled", "lost", "refused", "unknown")
_DENIED = f"coalesce(o.sqlstate, a.sqlstate) {EQUAL} '{SqlState.INSUFFICIENT_PRIVILEGE}'"


async def endings(
    connection: Any, wanted: Filter, since: datetime, until: datetime, step: timedelta
) -> tuple[list[TimelineStep], list[TimelineStep]]:
    """Gives accesses in steps of time, by operation, and by how they ended. Raises ConfigError.

    Most end well. So all are counted first, and what did not end well is looked up and taken off.
    """
    seconds = int(step.total_seconds())
    bucket, bounded = f"{stretch(seconds)} AS bucket", wanted.but(since=since, until=until)
    columns = f"""{bucket}, {OUTCOME} AS outcome, coalesce({_DENIED}, false) AS denied,
        pg_catalog.count(DISTINCT a.id) AS n"""
    unended = f"{bucket}, 'unknown' AS outcome, false AS denied, pg_catalog.count(*) AS n"
    async with connection.transaction(isolation="repeatable_read"):
        operations = await timeline(connection, wanted, since, until, step)
        failed = tuple(kind for kind in OUTCOMES if kind not in ("ok", "unknown"))
        rows = await _asked(connection, bounded.but(outcome=failed), columns, 3, outcomes=True, looked_up=True)
        rows += await _asked(connection, bounded.but(outcome=("unknown",)), unended, 3, looked_up=True)
    found: dict[int, Counter[str]] = {}
    for row in rows:
        kind = "denied" if row["denied"] and row["outcome"] == "error" else row["outcome"]
        found.setdefault(row["bucket"], Counter())[kind] += row["n"]
    ended = []
    for one in operations:
        others = found.get(int(one.at.timestamp()) // seconds, Counter())
        well = sum(one.counts.values()) - others.total()
        ended.append(TimelineStep(one.at, dict(others) | ({"ok": well} if well else {})))
    return operations, ended


async def distinct_secrets(
    connection: Any, wanted: Filter, since: datetime, until: datetime, step: timedelta
) -> list[tuple[datetime, int]]:
    """Gives how many different secrets these accesses were of, in steps of time. Raises ConfigError."""
    seconds = int(step.total_seconds())
    columns = f"{stretch(seconds)} AS bucket, a.owner_id, a.secret_names, pg_catalog.count(*) AS n"
    found: dict[int, set[tuple[Any, Any]]] = {}
    for row in await _asked(connection, wanted.but(since=since, until=until), columns, 3):
        names = row["secret_names"]
        if row["owner_id"] is not None and names is not None:
            found.setdefault(row["bucket"], set()).update((row["owner_id"], name) for name in names)
    first, last = int(since.timestamp()) // seconds, int(until.timestamp()) // seconds
    return [
        (datetime.fromtimestamp(number * seconds, UTC), len(found.get(number, ()))) for number in range(first, last + 1)
    ]


@dataclass(slots=True)
class Touched:
    """One secret of an incident. `written`: when somebody else wrote it with success after it was touched last; None:
    nobody has. `last_write`: when anybody wrote it last, and `last_writer`, who."""

    owner_id: Any
    name: str
    counts: Counter[str]
    first: datetime
    last: datetime
    written: datetime | None = None
    others: list[str] = field(default_factory=list)
    last_write: datetime | None = None
    last_writer: str | None = None

    def record(self) -> dict[str, Any]:
        """Gives it as JSON has it."""
        return {one.name: _plain(getattr(self, one.name)) for one in dataclasses.fields(self)}

    def cells(self, place: int) -> dict[str, Any]:
        """Gives it as a line of a table. `place`: in the order in which to rotate, from 1."""
        return {
            "order": place, "secret": self.name, "owner_id": str(self.owner_id),
            **{kind: self.counts[kind] for kind in (*OPERATIONS, "unknown")},
            "first": self.first.isoformat(), "last": self.last.isoformat(),
            "written_by_another_since": _plain(self.written),
            "last_write": _plain(self.last_write), "last_writer": self.last_writer, "also_used_by": self.others,
        }  # fmt: skip


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else plain(value)


# What can be compromised: the filter's fields, each with what it is called.
COMPROMISED = {
    "user": "login", "jwt_user": "claim", "application": "application", "client": "client", "session": "session",
}  # fmt: skip


@dataclass(slots=True)
class Incident:
    """The secrets that a login, a claim, an application, a client or a session touched in a time span.

    `of`: what was compromised; several of its fields narrow it down. `nameless`: accesses without a known secret, by
    operation; `left_out`: secrets beyond the most that were asked for; `as_role`: accesses of other logins that took
    the login's name as their role; `alike`: where there is no such access, logins that are written almost alike.
    """

    of: Filter
    touched: list[Touched]
    nameless: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    as_role: int = 0
    alike: list[str] = field(default_factory=list)

    def whom(self) -> str:
        """Says what was compromised. Names are shown with everything escaped."""
        given = [(name, getattr(self.of, option)) for option, name in COMPROMISED.items()]
        text = ", ".join(f"{name} {json.dumps(value)}" for name, value in given if value is not None)
        return text[0].upper() + text[1:]

    def words(self) -> list[str]:
        """Says what it is of, and what is not in the list."""
        begin = "the beginning" if self.of.since is None else self.of.since.astimezone(UTC).isoformat()
        end = "now" if self.of.until is None else self.of.until.astimezone(UTC).isoformat()
        return [f"{self.whom()}, from {begin} until {end}:", f"{len(self.touched):,} secrets.", *self.remarks()]

    def remarks(self) -> list[str]:
        """Says what a reader of the list alone would not know."""
        words = []
        if self.as_role:
            words.append(f"{self.as_role:,} accesses are of other logins that took this one as their role (SET ROLE).")
        if self.unknown:
            words.append(f"{self.unknown:,} accesses do not name their secret: each may have been to any secret.")
        if self.left_out:
            words.append(f"{self.left_out:,} MORE SECRETS, touched earlier, are left out: choose a shorter time.")
        return words

    @property
    def unknown(self) -> int:
        return self.nameless.total()

    def parts(self) -> list[Filter]:
        """Gives the filters whose accesses it is made of."""
        return [self.of, *(_as_role(self.of) if self.as_role else [])]


def compromised(wanted: Filter) -> Filter:
    """Gives the filter of an incident. Raises ConfigError for one that says too little."""
    if not any(getattr(wanted, option) for option in COMPROMISED):
        raise ConfigError(f"an incident is of one of these: {', '.join(COMPROMISED)}")
    if wanted.since is None and wanted.session is None:
        raise ConfigError("since: an incident has a time from which on; only a session has its own")
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise ConfigError("since, until: the first is not before the second, so that no time is between them")
    wanted.conditions()
    return wanted


def _as_role(wanted: Filter) -> list[Filter]:
    """Gives the same for the role of that name, which a pooler's login takes for its users."""
    return [] if wanted.user is None else [wanted.but(user=None, role=wanted.user)]


_OF_SECRETS = f"""a.owner_id {EQUAL} ANY ($1::pg_catalog.uuid[])
AND a.secret_names OPERATOR(pg_catalog.&&) $2::pg_catalog.text[]
   AND {ACCESS_EVENTS}"""
# Who else uses a secret is told by what was compromised.
_TOLD_BY = {
    "user": "a.db_user", "jwt_user": f"coalesce(({ACCESSED_BY})::pg_catalog.text, a.db_user)",
    "application": "coalesce(a.application_name, a.db_user)",
    "client": "coalesce(pg_catalog.host(a.client_addr), a.db_user)", "session": "a.db_user",
}  # fmt: skip


def _others(wanted: Filter) -> Question:
    """Makes the query for who else uses secrets; its first two parameters are owners and names of these."""
    own, values = joined(wanted.but(since=None, until=None).conditions(), 2)
    told = next(text for option, text in _TOLD_BY.items() if getattr(wanted, option) is not None)
    outcome = OUTCOME_OF if wanted.needs_outcome else ""
    sql = f"""SELECT a.owner_id, a.secret_names, {told} AS who FROM {LOG}{outcome}
 WHERE {_OF_SECRETS} AND NOT coalesce(true{own}, false)
   AND a.event OPERATOR(pg_catalog.<>) 'refusal' GROUP BY 1, 2, 3"""  # noqa: S608 - constant text
    return Question(sql, values)


def _writes(wanted: Filter) -> Question:
    """Makes the query for the last successful writes of secrets, and which of them are those of the incident itself."""
    texts: list[str] = []
    values: list[Any] = []
    for one in (wanted, *_as_role(wanted)):
        own, more = joined(one.but(since=None, until=None).conditions(), 2 + len(values))
        texts.append(f"coalesce(true{own}, false)")
        values += more
    sql = f"""SELECT a.owner_id, a.secret_names, a.db_user, {" OR ".join(texts)} AS own, pg_catalog.max(a.at) AS at
  FROM {LOG} {OUTCOME_OF}
 WHERE {_OF_SECRETS} AND a.operation {EQUAL} 'write' AND {OUTCOME} {EQUAL} 'ok'
 GROUP BY 1, 2, 3, 4"""  # noqa: S608 - constant text
    return Question(sql, values)


def _take_write(found: Touched, row: Any, *, own: bool) -> None:
    """Takes a successful write of a secret. One of what was compromised is no rotation."""
    at = row["at"]
    if found.last_write is None or at > found.last_write:
        found.last_write, found.last_writer = at, row["db_user"]
    if not own and at > found.last and (found.written is None or at > found.written):
        found.written = at


async def incident(connection: Any, of: Filter, most: int | None = MOST_TOUCHED) -> Incident:
    """Gives the secrets that something compromised touched, those to rotate first at the top. Raises ConfigError.

    At most the `most` that were touched last; None: all.

    Refused and failed accesses touched nothing; cancelled, lost and unfinished ones may have. At the top are secrets
    that nobody else has written since, and among them those that most others use. A login's name may also have been
    the role of another login.
    """
    # Long because its questions add to the same secrets, one after the other.
    wanted = await resolved(connection, compromised(of))
    logins = [] if wanted.user is None else spellings(wanted.user, wanted.encoding)
    columns = f"""a.owner_id, a.secret_names, a.operation, {OUTCOME} AS outcome, a.db_user,
        pg_catalog.count(DISTINCT a.id) AS n, pg_catalog.min(a.at) AS first, pg_catalog.max(a.at) AS last"""
    found = Incident(wanted, [])
    rows = await _asked(connection, wanted, columns, 5, outcomes=True)
    for one in _as_role(wanted):
        if await _took_role(connection, one):
            others = await _asked(connection, one, columns, 5, outcomes=True)
            others = [row for row in others if row["db_user"] not in logins]
            found.as_role += sum(row["n"] for row in others)
            rows += others
    touched: dict[tuple[Any, str], Touched] = {}
    for row in rows:
        if row["outcome"] in ("refused", "error"):
            continue
        names = [name for name in row["secret_names"] or () if name is not None]
        if row["owner_id"] is None or not names:
            found.nameless[row["operation"] or "unknown"] += row["n"]
        for name in names if row["owner_id"] is not None else ():
            one_of = touched.setdefault(
                (row["owner_id"], name), Touched(row["owner_id"], name, Counter(), row["first"], row["last"])
            )
            one_of.counts[row["operation"] or "unknown"] += row["n"]
            one_of.first, one_of.last = min(one_of.first, row["first"]), max(one_of.last, row["last"])
    found.left_out = 0 if most is None else max(0, len(touched) - most)
    if found.left_out:
        latest = sorted(touched.values(), key=lambda one: one.last, reverse=True)[:most]
        touched = {(one.owner_id, one.name): one for one in latest}
    await _look_into(connection, wanted, touched)
    found.touched = sorted(
        touched.values(),
        key=lambda one: (one.written is not None, -len(one.others), one.last, str(one.owner_id), one.name),
    )
    if not rows and wanted.user is not None:
        found.alike = await logins_like(connection, wanted.user)
    return found


async def _took_role(connection: Any, wanted: Filter) -> bool:
    """Says whether any row from then on has this role: to count accesses by it takes longer."""
    rest = wanted.before_its_end().but(until=None)
    where, values = joined(rest.conditions(), 1)
    query = f"SELECT EXISTS (SELECT FROM {LOG} WHERE a.role {EQUAL} ANY ($1::pg_catalog.text[]){where})"  # noqa: S608
    return bool(await connection.fetchval(query, spellings(wanted.role or "", wanted.encoding), *values))


async def _look_into(connection: Any, wanted: Filter, touched: dict[tuple[Any, str], Touched]) -> None:
    """Finds who else uses the secrets, and who wrote them last."""
    places = sorted(touched)
    others: dict[tuple[Any, str], set[str]] = {}
    for start in range(0, len(places), MOST_TOUCHED):
        part = places[start : start + MOST_TOUCHED]
        owners: list[uuid.UUID] = sorted({owner for owner, _ in part})
        keys = [owners, sorted({name for _, name in part})]
        asked = _others(wanted)
        for row in await connection.fetch(asked.sql, *keys, *asked.values):
            for name in row["secret_names"]:
                one = touched.get((row["owner_id"], name))
                if one is not None and row["who"] is not None:
                    others.setdefault((one.owner_id, one.name), set()).add(row["who"])
        asked = _writes(wanted)
        for row in await connection.fetch(asked.sql, *keys, *asked.values):
            for name in row["secret_names"]:
                one = touched.get((row["owner_id"], name))
                if one is not None:
                    _take_write(one, row, own=row["own"])
    for key, names in others.items():
        touched[key].others = sorted(names)
