"""Checks that every way to ask for accesses gives the same ones: pages, streams, filters, counts and the view, over a
log of every kind of row."""

from __future__ import annotations

import asyncio
import random
import statistics
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from secretproxy.audit import counting, exports, paging, review, subjects
from secretproxy.audit.columns import NAMES
from secretproxy.audit.filters import OUTCOMES, Filter
from secretproxy.audit.records import plain
from secretproxy.audit.verify import Report
from secretproxy.config import ConfigError
from secretproxy.install import install
from tests.conftest import Backend

COLUMNS = (
    "id", "at", "event", "instance", "seq", "session_id", "statement_no", "function", "operation", "owner_id", "secret_names", "db_user",
    "role", "accessed_by", "database", "application_name", "client_addr", "outcome", "sqlstate", "duration", "calls",
    "encoding", "via", "protocol", "fingerprint", "client_port",
)  # fmt: skip
START = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
READ, VERIFY = "encrypted_secrets.secrets_getter(uuid,text,text)", "encrypted_secrets.secrets_verify(uuid,text,text)"


def made(draw: random.Random, statements: int) -> list[dict[str, Any]]:
    """Makes a log: plain statements, vague attempts with their calls, outcomes that name an attempt, open and refused
    ones, direct calls."""
    rows: list[dict[str, Any]] = []
    owners = [uuid.UUID(int=draw.getrandbits(128)) for _ in range(5)]
    users = [uuid.UUID(int=draw.getrandbits(128)) for _ in range(3)]
    instance, session, moment = uuid.uuid4(), uuid.uuid4(), START
    for number in range(statements):
        if number % 10 == 0:
            session, login = uuid.UUID(int=draw.getrandbits(128)), draw.choice(["app", "batch", "admin"])
            application, client = draw.choice(["billing", "web", None]), draw.choice(["10.0.0.7", "10.1.0.9", None])
            # In such a session each access has an outcome of its own, which names nobody.
            calm = draw.random() < 0.4
        moment += timedelta(seconds=draw.choice([1, 5, 300, 4000]))

        who = {"db_user": login, "database": "app", "application_name": application, "client_addr": client}
        where = {"instance": instance, "session_id": session, "statement_no": number} | who

        def add(event: str, *, where: dict[str, Any] = where, when: datetime = moment, **columns: Any) -> None:
            nth = len(rows) + 1
            row = {
                "id": uuid.UUID(int=draw.getrandbits(128)),
                "at": when + timedelta(microseconds=nth),
                "event": event,
                "seq": nth,
                "encoding": ("pgp", "crypt", None)[nth % 3],
                "via": (None, ["app.f(text)", "app.g()"], ["app.g()"])[nth % 3],
                "protocol": ("simple", "extended")[nth % 2],
                "fingerprint": str(nth % 5),
                "client_port": 5000 + nth % 4,
            }
            rows.append(dict.fromkeys(COLUMNS) | where | row | columns)

        def secret() -> dict[str, Any]:
            function, operation = draw.choice([(READ, "read"), (READ, "read"), (VERIFY, "verify")])
            names = draw.choice([["a"], ["b"], ["a", "b"], ["c", None], ["", ""], [None]])
            return {
                "function": function,
                "operation": operation,
                "owner_id": draw.choice(owners),
                "secret_names": names,
            }

        kind = draw.choice(
            [
                "plain",
                "plain",
                "plain",
                "vague",
                "vague alone",
                "named",
                "open",
                "refused",
                "direct",
                "call",
                "late",
                "event",
                "access",
                "access",
                "not told",
                *(["guesses"] if number % 9 == 0 else []),
            ]
        )
        ended = {"outcome": draw.choice(["ok", "ok", "ok", "error", "cancelled", "lost"]), "duration": 0.01, "calls": 1}
        ended |= {"role": "reader" if number % 4 == 0 else None, "accessed_by": draw.choice([None, *users])}
        if ended["outcome"] == "error":
            ended["sqlstate"] = ("42501", "22023")[number % 2]
        if calm:
            kind = draw.choice(["plain", "plain", "vague alone", "call", "direct"])
            ended |= {"role": None, "accessed_by": None}
        first = secret()
        match kind:
            case "plain":
                add("attempt", **first)
                add("outcome", **ended)
            case "access":
                add("access", **first | ended)
            case "not told":
                # The log could not be written in time, or the client had gone.
                add("access", **first | ended | {"outcome": "ok"})
                add("outcome", outcome=draw.choice(["refused", "lost"]), sqlstate="58030", duration=0.02)
            case "late":
                add("attempt", **first)
                add("outcome", **ended, at=moment + timedelta(days=3))
            case "vague":
                add("attempt", **first | {"owner_id": None})
                add("call", **first, role="other", accessed_by=users[0])
                add("call", **first)
                add("outcome", **ended)
            case "vague alone":
                add("attempt", **first | {"secret_names": None})
                add("outcome", **ended | {"calls": 0})
            case "named":
                second = first | {"owner_id": owners[0] if first["owner_id"] != owners[0] else owners[1]}
                third = first | {"owner_id": None, "secret_names": None, "function": "f(uuid)"}
                for one in (first, second, third):
                    add("attempt", **one)
                add("call", **secret())
                for calls, one in enumerate((first, second, third)):
                    named = {name: one[name] for name in ("function", "owner_id", "secret_names")}
                    add("outcome", **ended | named | {"calls": calls, "accessed_by": users[calls]})
            case "open":
                add("attempt", **first)
            case "refused":
                add("refusal", **first, outcome="refused", sqlstate="58030")
            case "direct":
                add(
                    "direct", **first, instance=None, seq=None, session_id=None, statement_no=None, accessed_by=users[1]
                )
            case "call":
                add("call", **first, accessed_by=users[2])
                add("outcome", **ended)
            case "guesses":
                # A row of verifies across the border of two stretches, of one owner or of none.
                guessed = first | {
                    "function": VERIFY,
                    "operation": "verify",
                    "owner_id": draw.choice([owners[0], None]),
                }
                for nth in range(7):
                    when = moment + timedelta(seconds=59 * nth)
                    add("call", **guessed, when=when, where=where | {"statement_no": -100 * number - nth})
                    add("outcome", **ended, when=when, where=where | {"statement_no": -100 * number - nth})
                moment += timedelta(seconds=59 * 7)
            case "event":
                add(draw.choice(["definition", "table", "forgery"]), function="public.f()")
    return rows


@pytest.fixture(scope="module")
def database(postgres: Backend) -> Iterator[str]:
    name = f"counting_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    asyncio.run(install(postgres.dsn(database=name), postgres.key_file))
    with psycopg.connect(postgres.dsn(database=name), autocommit=True) as sql:
        sql.execute("SET search_path = secretproxy")
        rows = made(random.Random(11), 900)
        places = ", ".join(["%s"] * len(COLUMNS))
        sql.cursor().executemany(
            f"INSERT INTO secretproxy.access_log ({', '.join(COLUMNS)}) VALUES ({places})",  # type: ignore[arg-type]
            [[row[name] for name in COLUMNS] for row in rows],
        )
        sql.execute("ANALYZE secretproxy.access_log")
    yield postgres.dsn("auditor", name)
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def log(database: str) -> AsyncIterator[Any]:
    connection = await review.connect(database)
    yield connection
    await connection.close()


async def all_of(log: Any, wanted: Filter, limit: int | None = None) -> list[dict[str, Any]]:
    return [dict(row) async for row in review.accesses(log, wanted, limit)]


def filters(everything: list[dict[str, Any]]) -> dict[str, Filter]:
    some = next(row for row in everything if row["accessed_by"] and row["how"] == "attempt")
    middle = everything[len(everything) // 2]["at"]
    return {
        "anything": Filter(), "since": Filter(since=middle), "until": Filter(until=middle), "owner": Filter(owner=str(some["owner_id"])),
        "beginning of an owner": Filter(owner=str(some["owner_id"])[:6]), "secret": Filter(secret="b"), "user": Filter(user="batch"),
        "jwt user": Filter(jwt_user=str(some["accessed_by"])), "function": Filter(function="secrets_verify"),
        "operation": Filter(operation="read"), "client": Filter(client="10.0.0.0/16"), "application": Filter(application="web"),
        "session": Filter(session=str(some["session_id"])), "two outcomes": Filter(outcome=("error", "unknown")),
        **{kind: Filter(outcome=(kind,)) for kind in OUTCOMES},
        "several": Filter(since=middle, user="app", outcome=("ok", "lost"), secret="a", jwt_user=str(some["accessed_by"])),
        "all outcomes": Filter(outcome=OUTCOMES),
    }  # fmt: skip


async def test_pages_streams_and_the_test_of_a_row_agree_on_every_filter(log: Any) -> None:
    everything = await all_of(log, Filter())
    assert len({row["id"] for row in everything}) == len(everything) > 700
    assert {row["outcome"] for row in everything} == set(OUTCOMES)
    for name, wanted in filters(everything).items():
        expected = [row for row in everything if wanted.fits(row)]
        assert expected, name
        assert await all_of(log, wanted) == expected, name
        for limit in (7, 5000):
            assert await all_of(log, wanted, limit) == expected[-limit:], (name, limit)
        counted = await review.how_many_accesses(log, wanted, 1)
        assert counted.exact and counted.number == len(expected), name


def of_other_columns(everything: list[dict[str, Any]]) -> dict[str, Filter]:
    """Gives a filter for each column that is asked about seldom."""
    some = next(row for row in everything if row["role"] and row["how"] == "attempt" and row["calls"])
    last = everything[-1]
    return {
        "role": Filter(role="reader"), "sqlstate": Filter(sqlstate="58030"), "calls": Filter(calls="2"), "no calls": Filter(calls="0"),
        "duration": Filter(duration="0.015"), "database": Filter(database="app"), "stored": Filter(stored="crypt"),
        "via": Filter(via="app.f"), "via whole": Filter(via="app.g()"), "how": Filter(how="access"),
        "protocol": Filter(protocol="simple"), "fingerprint": Filter(fingerprint="3"), "port": Filter(port="5001"),
        "statement": Filter(statement=str(some["statement_no"])), "instance": Filter(instance=str(some["instance"])[:12]),
        "seq": Filter(seq=str(some["seq"])), "id": Filter(id=str(last["id"])), "beginning of an id": Filter(id=str(last["id"])[:9]),
        "denials": Filter(outcome=("error",), sqlstate="42501"),
        "together": Filter(role="reader", calls="1", outcome=("error", "ok"), duration="0.01", protocol="simple"),
    }  # fmt: skip


async def test_every_column_has_a_filter_that_agrees_with_the_test_of_a_row(log: Any) -> None:
    everything = await all_of(log, Filter())
    for name, wanted in of_other_columns(everything).items():
        expected = [row for row in everything if wanted.fits(row)]
        assert 0 < len(expected) < len(everything) or name in ("database", "instance"), name
        assert await all_of(log, wanted) == expected, name
        assert await all_of(log, wanted, 5) == expected[-5:], name
    for nonsense in (
        {"sqlstate": "42"},
        {"calls": "-1"},
        {"duration": "1e9"},
        {"how": "outcome"},
        {"port": "x"},
        {"id": "g"},
    ):
        with pytest.raises(ConfigError):
            Filter(**nonsense).conditions()  # type: ignore[arg-type]


@pytest.mark.parametrize(("nearest", "growth", "rest"), [(25, 3, 4), (300, 8, 100), (0, 8, 100)])
async def test_pages_from_stretches_of_time_have_the_same_accesses(
    log: Any, monkeypatch: pytest.MonkeyPatch, nearest: int, growth: int, rest: int
) -> None:
    """However few of the newest rows are looked at first, of one moment only too, and however the stretches
    before them grow."""
    everything = await all_of(log, Filter())
    for name, value in {"NEAREST": nearest, "_GROWTH": growth, "_REST": rest}.items():
        monkeypatch.setattr(review, name, value)
    middle = everything[len(everything) // 2]["at"]
    known = filters(everything) | of_other_columns(everything)
    several = ("secret", "jwt user", "function", "unknown", "ok", "via", "role", "how", "seq", "several")
    wanted = {name: known[name] for name in several} | {"nothing": Filter(function="none such")}
    wanted |= {
        f"{name} until": one.but(until=middle) for name, one in wanted.items() if name in ("function", "unknown")
    }
    wanted["a time"] = Filter(operation="verify", since=everything[99]["at"], until=middle)
    for name, one in wanted.items():
        expected = [row for row in everything if one.fits(row)]
        for limit in (3, 40):
            assert await all_of(log, one, limit) == expected[-limit:], (name, limit)
        page = await paging.newest(log, one, 5)
        if page.next:
            page.rows += (await paging.newest(log, one, 5, page.next)).rows
        assert page.rows == expected[::-1][:10], name


async def test_a_beginning_that_no_uuid_has_is_looked_for_once(log: Any) -> None:
    """What is asked about the rows that there are has no answer then; what comes later may match."""
    everything = await all_of(log, Filter())
    some = next(row for row in everything if row["accessed_by"])
    for option, value in (("jwt_user", some["accessed_by"]), ("id", some["id"])):
        begins = next(f"{digits:08x}" for digits in range(10**6) if not str(value).startswith(f"{digits:08x}"))
        wanted = Filter(**{option: begins})
        found = await review.resolved(log, wanted, now=True)
        assert found.absent and await all_of(log, found) == await all_of(log, found, 5) == []
        assert not (await review.resolved(log, wanted)).absent
        assert found.asked() == (await review.resolved(log, wanted)).asked()
        one = await review.resolved(log, Filter(**{option: str(value)[:10]}), now=True)
        assert not one.absent and getattr(one, option) == str(value)
    with pytest.raises(ConfigError, match="several begin so"):
        await review.resolved(log, Filter(id=Counter(str(row["id"])[0] for row in everything).most_common(1)[0][0]))


async def test_endings_over_time_are_those_of_the_accesses(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A denial is told apart from other errors, and nothing is counted twice or left out."""
    everything = await all_of(log, Filter())
    asked = filters(everything)
    step = timedelta(hours=6)
    since, until = everything[0]["at"] - step, everything[-1]["at"] + timedelta(seconds=1)
    for many in (0, 1_000_000):
        monkeypatch.setattr(counting.accesses, "MANY", many)
        for name in ("anything", "user", "secret", "owner"):
            expected: dict[int, Counter[str]] = {}
            for row in everything:
                if asked[name].fits(row):
                    kind = "denied" if (row["outcome"], row["sqlstate"]) == ("error", "42501") else row["outcome"]
                    expected.setdefault(int(row["at"].timestamp()) // 21600, Counter())[kind] += 1
            operations, ended = await subjects.endings(log, asked[name], since, until, step)
            found = {int(one.at.timestamp()) // 21600: Counter(one.counts) for one in ended if one.counts}
            assert found == expected, (name, many)
            assert [sum(one.counts.values()) for one in operations] == [sum(one.counts.values()) for one in ended]
            assert name != "anything" or sum(found.values(), Counter()).keys() == set(subjects.ENDINGS)


async def test_an_export_of_accesses_has_what_they_are_made_of(log: Any) -> None:
    """Each access that matches with the outcomes that say so, each row once, in the order of the chains; put together
    again they match, and one that does not is named."""
    everything = await all_of(log, Filter())
    asked = filters(everything) | of_other_columns(everything)
    for name, wanted in asked.items():
        if not wanted.needs_outcome:
            continue
        expected = {row["id"] for row in everything if wanted.fits(row)}
        rows = [dict(row) async for row in review.rows(log, wanted)]
        assert {row["id"] for row in rows if row["event"] != "outcome"} == expected, name
        assert len({row["id"] for row in rows}) == len(rows)
        matching = exports.Matching.of({"of": "accesses", "filters": wanted.asked(), "encoding": "UTF8"})
        assert matching is not None
        for row in rows:
            matching.take({column: plain(row[column]) for column in NAMES})
        report = Report()
        matching.end(report)
        assert report.sound and f"each of the {len(expected):,} accesses" in matching.words()[0], (
            name,
            report.findings,
        )
    for wanted in (Filter(outcome=("ok",)), Filter(calls="1"), Filter(role="reader"), Filter(sqlstate="42501")):
        matching = exports.Matching.of({"of": "accesses", "filters": wanted.asked(), "encoding": "UTF8"})
        assert matching is not None
        async for row in review.rows(log, Filter(outcome=("lost",))):
            matching.take({column: plain(row[column]) for column in NAMES})
        report = Report()
        matching.end(report)
        assert not report.sound and matching.words() == []


async def test_the_view_has_the_same_accesses(log: Any) -> None:
    everything = {row["id"]: row for row in await all_of(log, Filter())}
    columns = ("outcome", "calls", "role", "accessed_by", "sqlstate", "secret_names", "owner_id", "how")
    rows = await log.fetch(f"SELECT id, {', '.join(columns)} FROM secretproxy.secret_access")
    assert len(rows) == len(everything)
    for row in rows:
        assert {name: row[name] for name in columns} == {name: everything[row["id"]][name] for name in columns}


def runs_of(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Finds five or more verifies of a secret by a login with no pause of a minute."""
    found = set()
    verifies: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=review.in_order):
        if row["operation"] == "verify":
            verifies.setdefault((row["db_user"], row["owner_id"], str(row["secret_names"])), []).append(row)
    for (user, owner, _), those in verifies.items():
        run: list[dict[str, Any]] = []
        for row in [*those, None]:
            if row is not None and (not run or row["at"] - run[-1]["at"] <= timedelta(minutes=1)):
                run.append(row)
                continue
            if len(run) >= 5:
                failed = sum(one["outcome"] != "ok" for one in run)
                found.add((run[0]["at"], run[-1]["at"], user, owner, len(run), failed))
            run = [] if row is None else [row]
    return found


@pytest.mark.parametrize(("many", "few"), [(0, 0), (1_000_000, 1_000_000)], ids=["hashed", "looked up"])
async def test_counts_are_those_of_the_accesses(log: Any, monkeypatch: pytest.MonkeyPatch, many: int, few: int) -> None:
    monkeypatch.setattr(counting.accesses, "MANY", many)
    monkeypatch.setattr(counting.secrets, "_FEW", few)
    monkeypatch.setenv("TZ", "UTC")
    everything = await all_of(log, Filter())
    for name, wanted in filters(everything).items():
        rows = [row for row in everything if wanted.fits(row)]
        answers = await counting.stats(log, wanted, limit=None, evening=22, morning=6)

        def counted(
            table: str, *columns: str, answers: dict[str, counting.Table] = answers
        ) -> Counter[tuple[Any, ...]]:
            return Counter(
                {tuple(str(row[column]) for column in columns): row["n"] for row in answers[table].rows}
            )  # fmt: skip

        def expected(*columns: str, rows: list[dict[str, Any]] = rows) -> Counter[tuple[Any, ...]]:
            return Counter(tuple(str(row[column]) for column in columns) for row in rows)

        for table, columns in {
            "secrets": ("owner_id", "secret_names"), "users": ("db_user", "role", "accessed_by"), "outcomes": ("operation", "outcome"),
        }.items():  # fmt: skip
            assert counted(table, *columns) == expected(*columns), (name, table)
            assert answers[table].count.number == len(answers[table].rows)
        assert counted("hours", "hour") == Counter((str(row["at"].hour),) for row in rows), name
        night = [row for row in rows if row["operation"] == "read" and (row["at"].hour >= 22 or row["at"].hour < 6)]
        assert [row["at"] for row in answers["at_night"].rows] == sorted((row["at"] for row in night), reverse=True), (
            name
        )
        earlier = {
            (row["owner_id"], str(row["secret_names"]), row["db_user"])
            for row in everything
            if wanted.since is not None and row["at"] < wanted.since and row["how"] != "refusal"
        }
        new = Counter(
            key
            for row in rows
            if row["owner_id"]
            and row["secret_names"]
            and (key := (row["owner_id"], str(row["secret_names"]), row["db_user"])) not in earlier
        )
        found = {
            (row["owner_id"], str(row["secret_names"]), row["db_user"]): row["n"] for row in answers["first_time"].rows
        }
        assert found == new, name
        runs = answers["many_verifies"].rows
        assert {
            (run["at"], run["until"], run["db_user"], run["owner_id"], run["n"], run["failed"]) for run in runs
        } == runs_of(rows), name
        if many == 0 and name in ("anything", "since", "secret", "all outcomes"):
            # The same where too many secrets may have such rows of verifies.
            with monkeypatch.context() as patch:
                patch.setattr(counting.secrets, "MOST_LEFT", -1)
                assert await counting.stats(log, wanted, limit=None, evening=22, morning=6) == answers, name
        cut = await counting.stats(log, wanted, limit=2, evening=22, morning=6)
        for table in ("secrets", "users", "first_time", "at_night"):
            assert cut[table].rows == answers[table].rows[:2], (name, table)
            assert cut[table].count.number == len(answers[table].rows), (name, table)


async def test_earlier_uses_are_read_where_looking_them_up_takes_long(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await all_of(log, Filter())
    wanted = Filter(since=everything[len(everything) // 2]["at"])
    monkeypatch.setattr(counting.secrets, "_FEW", 0)
    expected = await counting.stats(log, wanted, limit=None, evening=22, morning=6)
    asked: list[str] = []
    lines = counting.secrets._of_secrets

    def slow(source: counting.Accesses, limit: int | None, *, looked_up: bool) -> review.Question:
        found = lines(source, limit, looked_up=looked_up)
        asked.append(f"looked up: {looked_up}")
        waiting = f"{found.sql} UNION ALL SELECT 5, NULL, NULL, pg_catalog.pg_sleep(9)::pg_catalog.text, 0, NULL"
        return review.Question(waiting, found.values) if looked_up else found

    monkeypatch.setattr(counting.secrets, "_FEW", 1_000_000)
    monkeypatch.setattr(counting.secrets, "_LOOKING_UP_MS", 20)
    monkeypatch.setattr(counting.secrets, "_of_secrets", slow)
    found = await counting.stats(log, wanted, limit=None, evening=22, morning=6)
    assert asked == ["looked up: True", "looked up: False"]
    assert found == expected
    assert await log.fetchval("SHOW statement_timeout") == "0"


async def test_a_second_connection_changes_no_answer(log: Any, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and outcomes are counted at the same time where a second connection is to be had; what is counted is the
    same if none is, and if it breaks."""
    monkeypatch.setattr(counting.accesses, "MANY", 0)
    everything = await all_of(log, Filter())
    wanted = Filter(since=everything[len(everything) // 3]["at"])
    opened: list[Any] = []
    cube, asked = counting.summary.count_ended, []

    async def another() -> Any:
        opened.append(await review.connect(database))
        return opened[-1]

    async def refused() -> Any:
        raise ConfigError("too many connections")

    async def noted(connection: Any, source: counting.Accesses) -> list[Any]:
        asked.append(connection)
        return await cube(connection, source)

    async def breaking(connection: Any, source: counting.Accesses) -> list[Any]:
        if connection is not log:
            connection.terminate()
        return await noted(connection, source)

    def counted(how: Any) -> Any:
        return counting.stats(log, wanted, limit=None, evening=22, morning=6, another=how)

    monkeypatch.setattr(counting.summary, "count_ended", noted)
    expected = await counted(None)
    assert await counted(another) == expected and opened == []  # for vague attempts are among the newest rows
    monkeypatch.setattr(counting.summary, "LOOKED_AT", 0)
    assert await counted(another) == expected
    assert asked[2:] == opened and len(opened) == 1
    assert await counted(refused) == expected and asked[3:] == [log]
    monkeypatch.setattr(counting.summary, "count_ended", breaking)
    assert await counted(another) == expected
    assert asked[4:] == [opened[1], log] and all(one.is_closed() for one in opened)


async def test_sessions_that_need_no_join_are_counted_as_the_others(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain sessions are counted by their accesses alone; open, vague and refused ones, outcomes that name an attempt or
    a user, and what falls apart at the edge of the time are joined."""
    monkeypatch.setattr(counting.outcomes, "_MOST_OTHER", 1)
    everything = await all_of(log, Filter())
    edges = [everything[len(everything) * part // 5]["at"] for part in range(1, 5)]
    joined: list[str] = []
    by_join = counting.outcomes.joined_cube

    async def noted(connection: Any, source: counting.Accesses, some: str = "", *more: str) -> list[Any]:
        joined.append(some)
        return await by_join(connection, source, some)

    def summed(cube: list[Any], *names: str) -> dict[tuple[Any, ...], tuple[int, datetime]]:
        return counting.outcomes.summed(cube, lambda group: tuple(getattr(group, name) for name in names))

    def counted(cube: list[Any]) -> dict[tuple[Any, ...], int]:
        groups = summed(cube, "db_user", "role", "accessed_by", "operation", "outcome", "hour")
        return {key: n for key, (n, _) in groups.items()}

    monkeypatch.setattr(counting.outcomes, "joined_cube", noted)
    for since, until in (
        (None, None),
        *((edge, None) for edge in edges),
        *((None, edge) for edge in edges),
        edges[1:3],
    ):
        wanted = Filter(since=since, until=until)
        async with log.transaction(isolation="repeatable_read"):
            source = await counting.looked_at(log, wanted)
            await counting.settle(log, source)
            found = await counting.outcomes._cube_of_sessions(log, source)
            expected = await by_join(log, await counting.looked_at(log, wanted))
        assert found is not None and counted(found) == counted(expected), wanted
        users = "db_user", "role", "accessed_by"
        assert summed(found, *users) == summed(expected, *users), wanted
        sessions = {str(row["session_id"]) for row in everything if row["session_id"] and wanted.fits(row)}
        looked_up = " ".join(some for some in joined if "NOT" not in some)
        assert 0 < sum(session in looked_up for session in sessions) < len(sessions), wanted
        joined.clear()


@pytest.mark.parametrize("many", [0, 1_000_000], ids=["read once", "looked up"])
async def test_two_sets_are_compared_by_everything(log: Any, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr(counting.accesses, "MANY", many)
    everything = await all_of(log, Filter())
    middle = everything[len(everything) // 2]["at"]
    applications = Filter(application="web"), Filter(application="billing")
    for (one, other), by, columns in (
        (applications, "secret", ("owner_id", "secret_names")), (applications, "user", ("db_user",)),
        (applications, "outcome", ("outcome",)), (applications, "client", ("client_addr",)), (applications, "function", ("function",)),
        ((Filter(until=middle), Filter(since=middle)), "secret", ("owner_id", "secret_names")),
        ((Filter(secret="b"), Filter(client="10.0.0.0/16")), "operation", ("operation",)),
        ((Filter(), Filter(outcome=("error",))), "database", ("database",)),
    ):  # fmt: skip
        table = await counting.compare(log, one, other, by, None)
        expected = {
            tuple(str(row[column]) for column in columns): [0, 0]
            for row in everything
            if one.fits(row) or other.fits(row)
        }
        for row in everything:
            for side, wanted in enumerate((one, other)):
                if wanted.fits(row):
                    expected[tuple(str(row[column]) for column in columns)][side] += 1
        found = {tuple(str(row[column]) for column in columns): [row["one"], row["other"]] for row in table.rows}
        assert found == expected, by
        assert all(row["difference"] == row["other"] - row["one"] for row in table.rows)


@pytest.mark.parametrize(
    ("many", "slices"), [(0, 64), (0, 5), (1_000_000, 1)], ids=["in short slices", "in slices", "looked up"]
)
async def test_bursts_are_those_of_a_plain_count(
    log: Any, monkeypatch: pytest.MonkeyPatch, many: int, slices: int
) -> None:
    monkeypatch.setattr(counting.accesses, "MANY", many)
    monkeypatch.setattr(counting.windows, "SLICE", 1)
    monkeypatch.setattr(counting.windows, "MOST_SLICES", slices)
    half, at_least = 3600, 3
    everything = await all_of(log, Filter())
    edges = [everything[len(everything) * part // 3]["at"] for part in (1, 2)]
    for wanted in (Filter(), Filter(since=edges[0]), Filter(until=edges[0]), Filter(since=edges[0], until=edges[1])):
        halves: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in everything:
            if wanted.fits(row):
                halves.setdefault((row["db_user"], int(row["at"].timestamp() // half)), []).append(row)
        in_halves: dict[str, list[int]] = {}
        for (user, _), rows in halves.items():
            in_halves.setdefault(user, []).append(len({(row["owner_id"], str(row["secret_names"])) for row in rows}))
        expected = set()
        for (user, bucket), first in halves.items():
            rows = first + halves.get((user, bucket + 1), [])
            secrets = {(row["owner_id"], str(row["secret_names"])) for row in rows}
            if len(secrets) >= at_least:
                times = [row["at"] for row in rows]
                usual = statistics.median(in_halves[user])
                expected.add((user, min(times), max(times), len(secrets), len(rows), usual))
        assert len(expected) > 10
        found = await counting.bursts(log, wanted, window=timedelta(seconds=2 * half), at_least=at_least, limit=None)
        columns = "db_user", "at", "until", "secrets", "n", "usual"
        assert {tuple(row[column] for column in columns) for row in found.rows} == expected, wanted
        assert found.count.number == len(found.rows) == len(expected)


async def test_bursts_of_different_secrets(postgres: Backend, log: Any, database: str) -> None:
    """A burst is thirty secrets within four minutes, also across the border between two stretches; reading one secret
    often is none."""
    name = database.rpartition("/")[2]
    began = START + timedelta(days=40)
    with psycopg.connect(postgres.dsn(database=name), autocommit=True) as sql:
        insert = (
            "INSERT INTO secretproxy.access_log (at, event, function, operation, owner_id, secret_names, db_user, session_id, statement_no) "
            "VALUES (%s, 'attempt', %s, 'read', %s, %s, %s, %s, %s)"
        )
        owner, session = uuid.uuid4(), uuid.uuid4()
        for number in range(30):
            at = began + timedelta(minutes=3, seconds=number * 8)
            sql.execute(insert, (at, READ, owner, [f"secret {number}"], "thief", session, number))
            sql.execute(insert, (at, READ, owner, ["one secret"], "steady", session, 100 + number))
    since = began - timedelta(days=1)
    table = await counting.bursts(log, Filter(since=since), window=timedelta(minutes=10), at_least=25, limit=None)
    assert table.rows and {row["db_user"] for row in table.rows} == {"thief"}
    assert table.rows[0]["secrets"] == 30 and table.rows[0]["n"] == 30 and table.count.number == len(table.rows)
    assert (
        await counting.bursts(log, Filter(since=since), window=timedelta(minutes=10), at_least=31, limit=None)
    ).rows == []
    assert (
        await counting.bursts(log, Filter(since=since), window=timedelta(seconds=30), at_least=10, limit=None)
    ).rows == []


async def test_the_short_view_and_the_saved_questions_have_the_same_accesses(log: Any) -> None:
    everything = await all_of(log, Filter())
    rows = await log.fetch("SELECT id, accessed_by, secret_name FROM secretproxy.secret_access_log")
    by_id = {row["id"]: row for row in everything}
    assert {row["accessed_by"] for row in rows} >= {"app", "batch", "admin"}
    for row in rows:
        access = by_id[row["id"]]
        assert row["accessed_by"] == str(access["accessed_by"] or access["db_user"])
    assert len(rows) == sum(len(row["secret_names"] or [None]) for row in everything)
    failed = await log.fetch("SELECT id FROM secretproxy.failed_accesses")
    assert sorted(row["id"] for row in failed) == sorted(
        row["id"] for row in everything if row["outcome"] not in ("ok", "unknown")
    )
    secrets = await log.fetch("SELECT owner_id, secret_name, accesses, users FROM secretproxy.accesses_by_secret")
    expected = Counter((row["owner_id"], name) for row in everything for name in row["secret_names"] or [None])
    assert {(row["owner_id"], row["secret_name"]): row["accesses"] for row in secrets} == expected
    users = {(row["owner_id"], name, row["db_user"]) for row in everything for name in row["secret_names"] or [None]}
    assert sum(row["users"] for row in secrets) == len(users)
    first = await log.fetch("SELECT at, db_user, accessed_by, owner_id, secret_name FROM secretproxy.first_accesses")
    earliest: dict[tuple[Any, ...], datetime] = {}
    for row in everything:
        for name in row["secret_names"] or [None]:
            key = (row["db_user"], row["accessed_by"], row["owner_id"], name)
            earliest[key] = min(row["at"], earliest.get(key, row["at"]))
    assert {
        tuple(row[name] for name in ("db_user", "accessed_by", "owner_id", "secret_name")): row["at"] for row in first
    } == earliest
