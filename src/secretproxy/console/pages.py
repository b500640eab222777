"""The pages of the console: each reads its filter from the query string, asks the questions of `audit`, and shows a
template."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response, StreamingResponse

from secretproxy.audit import chains, counting, exporting, review, reviews, subjects, texts, usual, verified
from secretproxy.audit.checkpoints import public_key_of
from secretproxy.audit.columns import NAMES
from secretproxy.audit.evidence import Month, archive, incident_archive, packed
from secretproxy.audit.filters import KINDS as HOW
from secretproxy.audit.filters import OPERATIONS, OUTCOMES, PROTOCOLS, STORED_AS, Filter, moment
from secretproxy.audit.forms import MEDIA, has_parquet, rows_file
from secretproxy.audit.log_state import log_state
from secretproxy.audit.paging import Cursor, newest
from secretproxy.audit.recorder import UnrecordedError
from secretproxy.config import ConfigError
from secretproxy.console import charts, view
from secretproxy.console.app import Entry, Visit, log
from secretproxy.console.integrity import MOST_AT_ONCE, Check
from secretproxy.console.live import live
from secretproxy.console.parts import Part
from secretproxy.console.query import FIELDS, OFTEN, SELDOM, filter_of, query_of
from secretproxy.console.reading import Watch
from secretproxy.install import InstallError
from secretproxy.ops.doctor import examine

ROWS = 50
TOP = 10
# Seconds that the server may take for the next rows of a download: it sorts them all before the first.
DOWNLOAD_SECONDS = 600
# Lines of a table that has no second page.
MOST_LINES = 200
SPANS = (("1h", "hour"), ("24h", "day"), ("7d", "week"), ("30d", "month"), ("90d", "quarter"))
CHOICES = {
    "operation": OPERATIONS, "outcome": OUTCOMES, "stored": STORED_AS, "how": HOW, "protocol": PROTOCOLS,
}  # fmt: skip
KINDS = (*review.UNUSUAL, "direct")
# What each side of a comparison is chosen by.
_SIDE = ("since", "until", "application", "user")
# Rows of a download that are written at once.
_CHUNK = 500


def _span(query: Mapping[str, str], default: str = "7d") -> tuple[str, datetime]:
    text = query.get("span") or default
    if text not in dict(SPANS):
        raise ConfigError(f"span: one of {', '.join(name for name, _ in SPANS)}")
    return text, moment("span", text)


def steps_since(since: datetime) -> tuple[datetime, datetime, timedelta]:
    """Divides the time from `since` until now into at most 64 steps of a common length."""
    end = datetime.now(UTC)
    lengths = (1, 5, 30, 180, 720, 1440, 10080)
    step = next((minutes for minutes in lengths if (end - since) / timedelta(minutes=minutes) <= 64), lengths[-1])
    return since, end, timedelta(minutes=step)


def _ended(steps: list[subjects.TimelineStep]) -> Markup:
    labels = [(f"{step.at:%m-%d %H:%M}", step.counts) for step in steps]
    return Markup(charts.bars("Accesses by outcome over time, UTC", labels, subjects.ENDINGS))  # noqa: S704 - escaped where it is drawn


def _timeline(steps: list[subjects.TimelineStep], marks: Sequence[tuple[float, str]] = ()) -> Markup:
    labels = [(f"{step.at:%m-%d %H:%M}", step.counts) for step in steps]
    return Markup(charts.bars("Accesses by operation over time, UTC", labels, _kinds(steps), marks))  # noqa: S704 - escaped where it is drawn


def _hours(counts: Mapping[tuple[int, int], int]) -> Markup:
    return Markup(charts.hours("Accesses by weekday and hour, UTC", counts))  # noqa: S704 - drawn of numbers


def _kinds(steps: list[subjects.TimelineStep]) -> tuple[str, ...]:
    return (*OPERATIONS, "unknown") if any("unknown" in step.counts for step in steps) else OPERATIONS


def _times(visit: Visit, waits: str, wanted: Filter, since: datetime) -> Part:
    """Makes the part of a page that draws accesses over time."""

    async def drawn() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            steps = await subjects.timeline(connection, wanted, *steps_since(since))
        return {"chart": _timeline(steps), "steps": steps, "operations": _kinds(steps)}

    return Part("overview-times.html", waits, drawn)


def _counting(rows: int) -> str:
    """Says what a part waits for that counts so many rows."""
    return f"Counting about {rows:,} rows …"


async def _waits(visit: Visit, wanted: Filter | None = None) -> str:
    """Says what a part waits for: how many rows are counted, as the server expects.

    Raises UnavailableError, and ConfigError for a filter that this log cannot answer.
    """
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, wanted or Filter())
        wanted.conditions()
        return _counting(await review.expected(connection, wanted))


async def overview(visit: Visit) -> Response:
    """Shows what happened lately, at a glance."""
    span, since = _span(visit.query)
    wanted = Filter(since=since)
    waits = await _waits(visit, wanted)

    async def standing() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            unusual = [row async for row in review.events(connection, wanted, KINDS, limit=TOP)]
            many = {kind: await review.how_many_events(connection, wanted, (kind,), 0) for kind in KINDS}
            state = await log_state(connection)
            known = await verified.latest(connection)
        return {
            "unusual": unusual, "many": many, "state": state, "span": span, "check": visit.session.check,
            "known": known, "most_since": verified.MOST_SINCE,
        }  # fmt: skip

    async def times() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            steps, ended = await subjects.endings(connection, wanted, *steps_since(since))
        total: Counter[str] = Counter()
        for step in ended:
            total.update(step.counts)
        return {
            "chart": _timeline(steps), "steps": steps, "operations": _kinds(steps), "ended": ended, "total": total,
            "drawn": _ended(ended), "endings": subjects.ENDINGS, "span": span,
        }  # fmt: skip

    async def counted() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            counts = await counting.stats(connection, wanted, limit=TOP, evening=22, morning=6, recount=True)
        most = {name: max((row["n"] for row in counts[name].rows), default=0) for name in ("secrets", "users")}
        return {"counts": counts, "most": most, "span": span}

    parts = {
        "standing": Part("overview-standing.html", "Reading the log's ends …", standing),
        "times": Part("overview-ended.html", waits, times),
        "counts": Part("overview-counts.html", waits, counted),
    }
    return await visit.stream("overview.html", parts, title="Overview", span=span, spans=SPANS)


async def accesses(visit: Visit) -> Response:
    """Shows a page of accesses, newest first; `before` continues where the previous page ended."""
    query = query_of(visit.query)
    given = filter_of(query)
    before = Cursor.read(visit.query["before"]) if "before" in visit.query else None
    began = datetime.now(UTC)
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, given)

    async def rows() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            page = await newest(connection, wanted, ROWS, before)
        # Rows that are committed late have an earlier time than ones that are here already.
        known = min((row["at"] for row in page.rows), default=began) if page.next is None else page.rows[-1]["at"]
        return {
            "rows": page.rows, "query": query, "next": page.next, "first": before is None,
            "live": before is None and wanted.until is None,
            "known": max(known, began - timedelta(minutes=1)).isoformat(),
        }  # fmt: skip

    parts = {"rows": Part("accesses-rows.html", "Looking for accesses that match …", rows)}
    return await visit.stream(
        "accesses.html", parts, title="Accesses", query=query, often=("since", "until", *OFTEN), seldom=SELDOM,
        choices=CHOICES, parquet=has_parquet(),
    )  # fmt: skip


async def download(visit: Visit) -> Response:
    """Sends every access of the filter, as CSV, JSON lines or Parquet, in time order."""
    kind = visit.query.get("format", "csv")
    wanted = filter_of(query_of(visit.query))
    file = rows_file("format", kind, review.ACCESS_NAMES)
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, wanted)

    async def parts(connection: Any) -> AsyncGenerator[bytes]:
        waiting = 0
        async for row in review.accesses(connection, wanted):
            file.write(row)
            waiting += 1
            if waiting == _CHUNK:
                yield file.taken()
                waiting = 0
        yield file.close()

    return await _sent(visit, parts, f"accesses-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{kind}", MEDIA[kind])


async def proven(visit: Visit) -> Response:
    """Downloads the log's own rows of a filter with their manifest, as `audit export` makes both, in a zip."""
    kind = visit.query.get("format", "jsonl")
    wanted = filter_of(query_of(visit.query))
    file = rows_file("format", kind, NAMES)
    filters = wanted.asked()
    signer = exporting.signer_at_hand(visit.console.settings.audit.checkpoint_key_file)
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, wanted)
    name = f"log-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{kind}"

    def parts(connection: Any) -> AsyncGenerator[bytes]:
        return packed(connection, name, file, kind, wanted, filters, signer)

    return await _sent(visit, parts, f"{name}.zip")


async def secret(visit: Visit) -> Response:
    """Shows one secret: who used it, when first and last, from where, and whether anybody has since its last write."""
    # Long because it lists the parts of the page in their order.
    name, owner = visit.query.get("name"), visit.query.get("owner")
    if name is None:
        raise ConfigError(
            "a secret has a name, and an owner where several have one of that name: /secret?name=...&owner=..."
        )
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, Filter(owner=owner, secret=name))
        waits = _counting(await review.expected(connection, wanted))

    async def last_writes(connection: Any) -> list[tuple[datetime, Any]]:
        found = await subjects.last_writes(connection, wanted)
        return sorted(((at, who) for (who, _), at in found.items()), key=lambda pair: pair[0], reverse=True)

    async def facts() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            written = await last_writes(connection)
            recent = (await newest(connection, wanted, TOP)).rows
        owners = {row["owner_id"] for row in recent} | {who for _, who in written}
        return {"name": name, "owner": wanted.owner, "owners": len(owners), "written": written}

    async def users() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            found = await subjects.users_of(connection, wanted)
            latest = next((at for at, _ in await last_writes(connection)), None)
            still = [] if latest is None else await _readers(connection, wanted.but(since=latest))
        unread = latest is not None and not any(user["last"] > latest for user in found)
        left_out = max(0, len(found) - MOST_LINES)
        return {
            "users": found[:MOST_LINES], "left_out": left_out, "latest": latest, "unread": unread, "still": still,
        }  # fmt: skip

    async def times() -> dict[str, Any]:
        since, until, step = steps_since(datetime.now(UTC) - timedelta(days=90))
        async with visit.reader.connection() as connection:
            steps = await subjects.timeline(connection, wanted, since, until, step)
            page = await newest(connection, wanted.but(operation="write", outcome=("ok",), since=since), ROWS)
        begin = steps[0].at
        whole = steps[-1].at + step - begin
        marks = [
            ((row["at"] - begin) / whole, f"written {view.utc(row['at'])} UTC by {texts.safe(row['db_user'])}")
            for row in page.rows
        ]
        return {"chart": _timeline(steps, marks), "steps": steps, "operations": _kinds(steps)}

    async def hours() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            found = await subjects.hours_of(connection, wanted)
        return {"grid": _hours(found), "hours": found, "days": charts.DAYS}

    async def latest() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            writes = (await newest(connection, wanted.but(operation="write"), TOP)).rows
            return {"writes": writes, "recent": (await newest(connection, wanted, TOP)).rows}

    parts = {
        "facts": Part("secret-facts.html", waits, facts),
        "users": Part("secret-users.html", waits, users),
        "times": Part("secret-times.html", waits, times),
        "hours": Part("hours.html", waits, hours),
        "latest": Part("secret-latest.html", "Looking for its latest accesses …", latest),
    }
    return await visit.stream(
        "secret.html", parts, title=f"Secret {view.shortened(texts.quoted(name))}",
        query=query_of({"owner": owner or "", "secret": name}),
    )  # fmt: skip


async def _readers(connection: Any, wanted: Filter) -> list[tuple[str, int]]:
    """Gives which logins read, and how often, the most first."""
    found: Counter[str] = Counter()
    for row in await subjects.users_of(connection, wanted.but(operation="read")):
        found[row["db_user"]] += row["n"]
    return found.most_common()


# What a page of its own turns round: the filter's field, and what it is called.
SUBJECTS = {"user": "user", "jwt-user": "jwt_user", "application": "application", "client": "client"}


async def subject(visit: Visit) -> Response:
    """Shows one user, claim, application or client: which secrets it used, when, and what for the first time."""
    kind = visit.request.path_params["kind"]
    value = visit.query.get("name")
    if kind not in SUBJECTS or value is None:
        raise ConfigError(f"/who/KIND?name=...; KIND is one of {', '.join(SUBJECTS)}")
    span, since = _span(visit.query, "30d")
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, Filter(since=since).but(**{SUBJECTS[kind]: value}))
        wanted.conditions()
        waits = _counting(await review.expected(connection, wanted))

    async def bursts() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            steps = await subjects.distinct_secrets(connection, wanted, *steps_since(since))
        labels = [(f"{at:%m-%d %H:%M}", {"secrets": count}) for at, count in steps]
        drawn = charts.bars("Different secrets used over time, UTC", labels, ("secrets",))
        return {"chart": Markup(drawn), "steps": steps}  # noqa: S704 - escaped where it is drawn

    async def secrets() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            found = await subjects.secrets_of(connection, wanted)
        return {"secrets": found[:MOST_LINES], "left_out": max(0, len(found) - MOST_LINES)}

    async def hours() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            found = await subjects.hours_of(connection, wanted)
        return {"grid": _hours(found), "hours": found, "days": charts.DAYS}

    async def latest() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            return {"recent": (await newest(connection, wanted, TOP)).rows}

    parts = {
        "times": _times(visit, waits, wanted, since),
        "bursts": Part("subject-bursts.html", waits, bursts),
        "secrets": Part("subject-secrets.html", waits, secrets),
        "hours": Part("hours.html", waits, hours),
        "latest": Part("latest.html", "Looking for its latest accesses …", latest),
    }
    called = kind.replace("-", " ").capitalize()
    return await visit.stream(
        "subject.html", parts, title=f"{called} {view.shortened(value)}", kind=called, value=value,
        span=span, spans=SPANS, path_of=f"/who/{kind}", query={SUBJECTS[kind]: value},
    )  # fmt: skip


async def session(visit: Visit) -> Response:
    """Shows the story of one session, in the order of its events."""
    rows: list[Any] = []
    more = False
    async with visit.reader.connection() as connection:
        found = await review.whole_uuid(connection, "session_id", "session", visit.request.path_params["session"])
        async for row in review.story(connection, found):
            if len(rows) == 10 * MOST_LINES:
                more = True
                break
            rows.append(dict(row))
    return visit.show(
        "session.html", title=f"Session {str(found)[:8]}", session=found, rows=rows, more=more, chart=_story(rows)
    )


def _story(rows: list[dict[str, Any]]) -> Markup | None:
    """Draws the statements of a session that have secret calls: from their attempt to their outcome, with the calls
    that were held until the log had them."""
    begin, end = (min((row["at"] for row in rows), default=None), max((row["at"] for row in rows), default=None))
    statements: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        if row["event"] != "review" and row["statement_no"] is not None:
            statements.setdefault((row["instance"], row["statement_no"]), []).append(row)
    if begin is None or end is None or not statements:
        return None
    whole = max(end - begin, timedelta(milliseconds=1))
    lines = []
    for (_, number), events in [*statements.items()][:ROWS]:
        first, last = events[0]["at"], events[-1]["at"]
        if events[0]["event"] == "access":
            # In one row, written at its end.
            first = max(begin, first - timedelta(seconds=events[0]["duration"] or 0))
        outcome = next((row["outcome"] for row in events if row["outcome"] is not None), None)
        names = ", ".join(dict.fromkeys(view.shortened(row["function"]) for row in events if row["function"]))
        marks = [
            ((row["at"] - begin) / whole, f"{row['event']}: {view.shortened(row['function'])}")
            for row in events
            if row["event"] not in ("attempt", "outcome", "access")
        ]
        lines.append(
            charts.Line(
                f"statement {number}", f"statement {number}: {names}, {outcome or 'running'}",
                {"ok": "ended", None: "quiet"}.get(outcome, "wrong"), (first - begin) / whole, (last - begin) / whole,
                outcome is not None, marks,
            )
        )  # fmt: skip
    ticks = [f"{(begin + whole * part / 4).astimezone(UTC):%H:%M:%S}" for part in range(4)]
    return Markup(charts.lines("Statements of this session over time, UTC", ticks, lines))  # noqa: S704 - escaped where it is drawn


async def incident(visit: Visit) -> Response:
    """Shows what to rotate after a compromise: every secret that was touched, ordered by how much depends on it."""
    query = visit.query
    given = {name: query.get(name, "") for name in _INCIDENT}
    parts = {}
    if any(given[name] for name in subjects.COMPROMISED) and (given["since"] or given["session"]):
        wanted = _compromised(given)
        waits = await _waits(visit, wanted)
        for name, at in (("since", wanted.since), ("until", wanted.until)):
            given[name] = "" if at is None else at.astimezone(UTC).isoformat()

        async def touched() -> dict[str, Any]:
            async with visit.reader.connection() as connection:
                found = await subjects.incident(connection, wanted)
                where = await review.place(connection)
            return {"found": found, "given": given, "where": str(where), "now": datetime.now(UTC)}

        parts["touched"] = Part("incident-touched.html", waits, touched)
    return await visit.stream(
        "incident.html", parts, title="Incident", given=given, asked=bool(parts), whom=subjects.COMPROMISED
    )


_INCIDENT = (*subjects.COMPROMISED, "since", "until")


def _compromised(given: Mapping[str, str]) -> Filter:
    """Reads what was compromised, and from when until when. Raises ConfigError."""
    fields: dict[str, Any] = {name: given.get(name) or None for name in subjects.COMPROMISED}
    times: dict[str, Any] = {name: _whole(name, given[name]) for name in ("since", "until") if given.get(name)}
    return subjects.compromised(Filter(**fields, **times))


def _whole(name: str, text: str) -> datetime:
    """Reads a time; one that is told by how long ago it was is a whole second, which the page's address can name."""
    found = moment(name, text)
    return found if "-" in text else found.replace(microsecond=0)


async def rotation(visit: Visit) -> Response:
    """Sends what to rotate, with the rows of the log that say so, their manifest and how to verify them offline."""
    form = visit.query.get("format", "csv")
    if form not in ("csv", "jsonl"):
        raise ConfigError("format: one of csv, jsonl")
    key_file = visit.console.settings.audit.checkpoint_key_file
    signer, key = exporting.signer_at_hand(key_file), public_key_of(None, key_file)
    async with visit.reader.connection() as connection:
        found = await subjects.incident(connection, _compromised(visit.query), None)

    def parts(connection: Any) -> AsyncGenerator[bytes]:
        return incident_archive(connection, found, form, visit.session.user, signer, key)

    return await _sent(visit, parts, f"incident-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip")


async def findings(visit: Visit) -> Response:
    """Shows what is unusual: in itself, for a login by its own last thirty days, for the first time, many times in a
    row."""
    span, since = _span(visit.query)
    wanted = Filter(since=since)
    waits = await _waits(visit, wanted)
    before = await _waits(visit, Filter(since=since - usual.BASELINE))

    async def noted(connection: Any, found: dict[str, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
        known = await reviews.acknowledged(connection, [row["finding"] for rows in found.values() for row in rows])
        return {"found": found, "known": known, "span": span, **more}

    async def events() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            found = {}
            for kind in KINDS:
                rows = [row async for row in review.events(connection, wanted, (kind,), limit=MOST_LINES)]
                found[kind] = _keyed(kind, rows[::-1])
            return await noted(connection, found)

    async def bursts() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            rows = (await usual.bursts(connection, since, MOST_LINES)).rows
            return await noted(connection, {"bursts": _keyed("bursts", rows)})

    async def hours() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            rows = (await usual.hours(connection, since, MOST_LINES)).rows
            return await noted(connection, {"hours": _keyed("hours", rows)})

    async def counted() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            counts = await counting.stats(connection, wanted, limit=MOST_LINES, evening=22, morning=6, recount=True)
            first = counts["first_time"]
            found = {
                "first use": _keyed("first use", first.rows),
                "verifies": _keyed("verifies", counts["many_verifies"].rows),
            }
            return await noted(connection, found, first_uses=first.count)

    parts = {
        "events": Part("findings-events.html", "Looking for events …", events),
        "bursts": Part("findings-bursts.html", before, bursts),
        "hours": Part("findings-hours.html", before, hours),
        "counts": Part("findings-counts.html", waits, counted),
    }
    return await visit.stream("findings.html", parts, title="Findings", span=span, spans=SPANS, most=MOST_LINES)


# A finding by its kind and what tells it from others; the last is the time up to which it goes.
_TOLD_BY = {
    "bursts": ("db_user", "at", "until"), "hours": ("db_user", "at", "until"), "first use": ("db_user", "owner_id",
        "secret_names", "at"),
    "verifies": ("db_user", "owner_id", "secret_names", "at", "until"), **dict.fromkeys(KINDS, ("id", "at")),
}  # fmt: skip


def _keyed(kind: str, rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Gives rows of findings with what distinguishes each, and the time up to which they go."""
    names = _TOLD_BY[kind]
    return [
        dict(row) | {"finding": reviews.finding_of(kind, row, *names[:-1]), "lasted": row[names[-1]]} for row in rows
    ]


async def acknowledge(visit: Visit) -> Response:
    """Keeps a note on a finding, and goes back to the findings."""
    given = await visit.form()
    kind, finding, span = given.get("kind", ""), given.get("finding", ""), _span(given)[0]
    if kind not in _TOLD_BY or not re.fullmatch("[0-9a-f]{32}", finding):
        raise ConfigError("finding: not one of this page")
    recorder = visit.console.recorder
    await reviews.acknowledge(recorder, *visit.console.next_review(visit), kind, finding, given.get("note", ""))
    return RedirectResponse(view.link("/findings", span=span), status_code=303)


async def reviewing(visit: Visit) -> Response:
    """Shows how far the log is signed off and what came since, and who looked at what."""
    query = {name: visit.query[name] for name in _LOOKS if name in visit.query}
    wanted = filter_of(query)
    key = public_key_of(None, visit.console.settings.audit.checkpoint_key_file)
    waits = await _waits(visit)

    async def standing() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            return {"state": await reviews.reviewed(connection, TOP, key)}

    async def looked() -> dict[str, Any]:
        async with visit.reader.connection() as connection:
            looks = await reviews.looks(connection, await review.resolved(connection, wanted), ROWS + 1)
        older = (looks[ROWS - 1]["at"] + timedelta(microseconds=1)).isoformat() if len(looks) > ROWS else None
        return {"looks": looks[:ROWS], "older": older, "query": query}

    parts = {
        "looks": Part("reviews-looks.html", "Looking for reviews …", looked),
        "standing": Part("reviews-standing.html", waits, standing),
    }
    return await visit.stream(
        "reviews.html", parts, title="Reviews", query=query, names=_LOOKS,
        signs=visit.console.settings.audit.checkpoint_key_file is not None,
        now=(datetime.now(UTC) - 2 * reviews.SETTLED).isoformat(timespec="seconds"),
    )  # fmt: skip


async def sign_off(visit: Visit) -> Response:
    """Signs the log off up to a time, in the name of who signed in."""
    given = await visit.form()
    up_to = moment("up to", given.get("up_to", ""))
    async with visit.reader.connection() as connection:
        await reviews.sign_off(
            connection, visit.console.recorder, *visit.console.next_review(visit), up_to, given.get("note", "")
        )
    return RedirectResponse("/reviews", status_code=303)


async def compare(visit: Visit) -> Response:
    """Compares two time spans or two applications: what is new, what is gone, what has grown."""
    query = visit.query
    by = query.get("by", "secret")
    given = {f"{side}_{name}": query.get(f"{side}_{name}", "") for side in ("a", "b") for name in _SIDE}
    parts = {}
    if given["a_since"] and given["b_since"]:
        if by not in counting.KEYS:
            raise ConfigError(f"by: one of {', '.join(counting.KEYS)}")
        one, other = (filter_of({name: given[f"{side}_{name}"] for name in _SIDE}) for side in ("a", "b"))
        async with visit.reader.connection() as connection:
            one, other = await review.resolved(connection, one), await review.resolved(connection, other)
            rows = await review.expected(connection, one) + await review.expected(connection, other)

        async def compared() -> dict[str, Any]:
            async with visit.reader.connection() as connection:
                table = await counting.compare(connection, one, other, by, MOST_LINES)
            now = datetime.now(UTC)
            sides = [(side.since or now, side.until or now) for side in (one, other)]
            days = [max((until - since) / timedelta(days=1), 0.0) for since, until in sides]
            overlap = sides[0][0] < sides[1][1] and sides[1][0] < sides[0][1]
            alike = (one.user, one.application) == (other.user, other.application)
            return {"table": table, "sides": sides, "days": days, "twice": overlap and alike}

        async def ended() -> dict[str, Any]:
            now, found = datetime.now(UTC), []
            async with visit.reader.connection() as connection:
                for side in (one, other):
                    since, until = side.since or now, side.until or now
                    total: Counter[str] = Counter()
                    for step in (await subjects.endings(connection, side, since, until, timedelta(days=3650)))[1]:
                        total.update(step.counts)
                    found.append((total, max((until - since) / timedelta(days=1), 0.0)))
            return {"sides": found, "endings": subjects.ENDINGS}

        parts["sides"] = Part("compare-sides.html", _counting(rows), ended)
        parts["table"] = Part("compare-table.html", _counting(rows), compared)
    return await visit.stream(
        "compare.html", parts, title="Compare", by=by, kinds=tuple(counting.KEYS), given=given, names=_SIDE,
        asked=bool(parts),
    )  # fmt: skip


async def integrity(visit: Visit) -> Response:
    """Shows what is known of the log's chains on a time line, and the latest verification of this session."""
    span, since = _span(visit.query, "30d")
    audit = visit.console.settings.audit
    check, (_, until, step) = visit.session.check, steps_since(since)
    key = public_key_of(None, audit.checkpoint_key_file)

    async def standing() -> dict[str, Any]:
        report = None if check is None or check.running else check.report
        async with visit.reader.connection() as connection:
            gaps = await chains.gaps(connection, [] if report is None else report.findings)
            return {"state": await log_state(connection), "check": check, "report": report, "gaps": gaps}

    async def drawn() -> dict[str, Any]:
        report = None if check is None or check.running else check.report
        async with visit.reader.connection() as connection:
            found, more = await chains.chains(connection, since, step, ROWS, key)
            gaps = await chains.gaps(connection, [] if report is None else report.findings)
        states = {chain.instance: chain.state(until, audit.checkpoint_seconds) for chain in found}
        meanings = {name: text for name, text in chains.MEANING.items() if name in states.values()}
        return {
            "chains": found, "more": more, "states": states, "meanings": meanings, "checked": key is not None,
            "chart": _chains(found, states, gaps, since, until),
        }  # fmt: skip

    parts = {
        "standing": Part("integrity-standing.html", "Reading the log's ends …", standing),
        "chains": Part("integrity-chains.html", "Reading the ends of each chain …", drawn),
    }
    last_month = until.replace(day=1) - timedelta(days=1)
    return await visit.stream(
        "integrity.html", parts, title="Integrity", running=check is not None and check.running, span=span,
        spans=SPANS, month=f"{last_month:%Y-%m}", this_month=f"{until:%Y-%m}",
    )  # fmt: skip


def _chains(
    found: list[chains.Chain],
    states: Mapping[Any, str],
    gaps: list[chains.Gap],
    since: datetime,
    until: datetime,
) -> Markup:
    """Draws chains as time lines, with checkpoints, and with the gaps that a verification found."""

    def place(at: datetime) -> float:
        return (at - since) / (until - since)

    lines = []
    for chain in found:
        name, state = str(chain.instance), states[chain.instance]
        text = (
            f"{name}: rows {chain.first_seq:,} to {chain.last_seq:,}, {view.utc(chain.first)} to "
            f"{view.utc(chain.last)} UTC, {state}"
        )
        marks = [
            (place(at), f"{count:,} checkpoint{'' if count == 1 else 's'} up to {view.utc(at)} UTC")
            for at, count in chain.marks
        ]
        damaged = [
            (place(near[1]), f"{gap.damage.kind} at row {gap.damage.seq}: {texts.safe(gap.damage.text)}")
            for gap in gaps
            if gap.damage.instance == name and (near := gap.before or gap.after) is not None
        ]
        kind = state.replace(" ", "-")
        lines.append(
            charts.Line(name[:8], text, kind, place(chain.first), place(chain.last), state == "ended", marks, damaged)
        )
    form = "%H:%M" if until - since <= timedelta(days=2) else "%m-%d"
    ticks = [f"{(since + (until - since) * part / 6).astimezone(UTC):{form}}" for part in range(6)]
    return Markup(charts.lines("Chains over time, UTC", ticks, lines))  # noqa: S704 - escaped where it is drawn


def _check(visit: Visit) -> Check:
    """Gives this session's verification that runs, or begins one. Raises HTTPException where too many run."""
    console, session = visit.console, visit.session
    if session.check is None or not session.check.running:
        running = [one for one in console.sessions.all() if one.check is not None and one.check.running]
        if len(running) >= MOST_AT_ONCE:
            raise HTTPException(
                429, "Others verify the log now, and each verification takes a core. Try again when they are through."
            )
        session.check = Check()
        console.begin(_verified(visit, session.check))
    return session.check


async def _verified(visit: Visit, check: Check) -> None:
    """Runs a verification, and keeps in the log what it found."""
    console, session = visit.console, visit.session
    await check.run(visit.reader.conninfo, console.settings.audit, lambda: session.over)
    try:
        found = await check.verification(session.user)
        await verified.keep(console.recorder, *console.next_review(visit), found)
    except UnrecordedError:
        log.warning("what a verification found is not in the log, which cannot be written", user=session.user)


async def verify(visit: Visit) -> Response:
    """Begins a verification."""
    await visit.reader.reach()
    _check(visit)
    return RedirectResponse("/integrity", status_code=303)


async def report(visit: Visit) -> Response:
    """Sends the report of the latest verification."""
    check = visit.session.check
    if check is None or check.report is None:
        raise HTTPException(404)
    found = await check.verification(visit.session.user)
    name = f"verification-{check.began:%Y%m%dT%H%M%SZ}.json"
    return Response(found.text(), media_type="application/json", headers=_attached(name))


async def evidence(visit: Visit) -> Response:
    """Sends the evidence of a month, and verifies the log meanwhile."""
    month = Month.read("month", visit.query.get("month", ""))
    key_file = visit.console.settings.audit.checkpoint_key_file
    signer, key = exporting.signer_at_hand(key_file), public_key_of(None, key_file)
    await visit.reader.reach()
    check = _check(visit)

    def parts(connection: Any) -> AsyncGenerator[bytes]:
        return archive(connection, month, signer, key, check.verification(visit.session.user))

    return await _sent(visit, parts, f"evidence-{month}.zip")


async def _sent(
    visit: Visit, made: Callable[[Any], AsyncGenerator[bytes]], name: str, media: str = "application/zip"
) -> Response:
    """Sends a file as it is made, on a connection of its own. The name is one of ours.

    Raises UnavailableError if the log cannot be read now: what fails later can only break off.
    """
    await visit.reader.reach()

    async def parts() -> AsyncIterator[bytes]:
        async with visit.reader.connection(keep=False) as connection, aclosing(made(connection)) as given:
            with Watch(connection) as watch:
                watch.begin()
                await connection.execute(f"SET statement_timeout TO '{DOWNLOAD_SECONDS}s'")
                # How long a client takes is not the server's silence.
                while True:
                    watch.begin(DOWNLOAD_SECONDS + 15.0)
                    part = await anext(given, None)
                    watch.end()
                    if visit.console.sessions.over(visit.session):
                        # A download that is not whole must not look so.
                        raise ConnectionError("the session has ended")
                    if part is None:
                        break
                    yield part

    return StreamingResponse(parts(), media_type=media, headers=_attached(name))


def _attached(name: str) -> dict[str, str]:
    """Gives the header of a download. The name is one of ours."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}


async def doctor(visit: Visit) -> Response:
    """Shows what would leak a value or hide a call, with this login's rights."""
    console = visit.console

    async def examined() -> dict[str, Any]:
        try:
            return {"findings": await examine(visit.reader.conninfo, console.settings, console.config)}
        except InstallError as error:
            raise ConfigError(str(error)) from None

    parts = {"findings": Part("doctor-findings.html", "Asking the servers how they are set …", examined)}
    return await visit.stream("doctor.html", parts, title="Doctor")


_FILTER = ("since", "until", *FIELDS)
# Whose reviews are looked for, and when.
_LOOKS = ("since", "until", "user")
PAGES = [
    Entry("GET", "/", overview, "overview", ("span",)),
    Entry("GET", "/accesses", accesses, "accesses", (*_FILTER, "before")),
    Entry("GET", "/live", live, "live", _FILTER),
    Entry("GET", "/download", download, "download", ("format", *_FILTER)),
    Entry("GET", "/export", proven, "export", ("format", *_FILTER)),
    Entry("GET", "/secret", secret, "secret", ("owner", "name")),
    Entry("GET", "/who/{kind}", subject, "who", ("kind", "name", "span")),
    Entry("GET", "/session/{session}", session, "session", ("session",)),
    Entry("GET", "/incident", incident, "incident", _INCIDENT),
    Entry("GET", "/incident/download", rotation, "incident download", ("format", *_INCIDENT)),
    Entry("GET", "/findings", findings, "findings", ("span",)),
    Entry("GET", "/compare", compare, "compare", ("by", *(f"{side}_{name}" for side in ("a", "b") for name in _SIDE))),
    Entry("POST", "/findings/acknowledge", acknowledge, None),
    Entry("GET", "/reviews", reviewing, "reviews", _LOOKS),
    Entry("POST", "/reviews/sign-off", sign_off, None),
    # What the chains are, not what they say.
    Entry("GET", "/integrity", integrity, None),
    Entry("POST", "/integrity/verify", verify, "verify"),
    Entry("GET", "/integrity/report", report, "report"),
    Entry("GET", "/integrity/evidence", evidence, "evidence", ("month",)),
    # How the servers are set.
    Entry("GET", "/doctor", doctor, None),
]
