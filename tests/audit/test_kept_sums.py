"""Checks that sums which the log keeps of itself give the answers of its rows, and are left alone as soon as they would
not: after rows that came late, were removed or rewritten, after a second outcome, and after somebody's own sums."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
import structlog
from typer.testing import CliRunner

from secretproxy.audit import counting, housekeeping, review
from secretproxy.audit.filters import Filter
from secretproxy.cli.audit import app
from secretproxy.install import install
from tests.audit.test_counting import COLUMNS, made
from tests.conftest import Backend

# Random rows over some days are spread over so many times as long: over several months.
SPREAD = 9
ATTACH = """DO $$ DECLARE first timestamp := date_trunc('month', now() AT TIME ZONE 'UTC') - interval '{ago} months'; BEGIN
EXECUTE format('CREATE TABLE secretproxy.access_log_%s PARTITION OF secretproxy.access_log FOR VALUES FROM (%L) TO (%L)',
               to_char(first, 'YYYY_MM'), first AT TIME ZONE 'UTC', (first + interval '1 month') AT TIME ZONE 'UTC'); END $$"""


TABLES = ("sums", "sums_users", "sums_hours", "sums_secrets", "sums_open")


@pytest.fixture(scope="module")
def shared(postgres: Backend) -> Iterator[str]:
    name = f"sums_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    asyncio.run(install(postgres.dsn(database=name), postgres.key_file))
    with psycopg.connect(postgres.dsn(database=name), autocommit=True) as sql:
        for ago in (1, 2, 3):
            sql.execute(ATTACH.format(ago=ago))  # type: ignore[call-overload]
    yield name
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(postgres: Backend, shared: str) -> Iterator[str]:
    """Gives a log without rows."""
    yield shared
    with psycopg.connect(postgres.dsn(database=shared), autocommit=True) as sql:
        sql.execute("SET session_replication_role = replica")
        sql.execute(f"TRUNCATE secretproxy.access_log, {', '.join(f'secretproxy.{table}' for table in TABLES)}")  # type: ignore[call-overload]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has each log counted as one of many rows."""
    monkeypatch.setattr(counting.accesses, "MANY", 0)
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
async def log(postgres: Backend, database: str, large: None) -> AsyncIterator[Any]:
    connection = await review.connect(postgres.dsn("auditor", database))
    yield connection
    await connection.close()


class Owner:
    """Writes the log as nobody but its owner may."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @contextmanager
    def connected(self) -> Iterator[Any]:
        # Each time anew: at its end a session says what it updated.
        with psycopg.connect(self._dsn, autocommit=True) as sql:
            yield sql

    def add(self, rows: list[dict[str, Any]]) -> None:
        places = ", ".join(["%s"] * len(COLUMNS))
        with self.connected() as sql:
            sql.cursor().executemany(
                f"INSERT INTO secretproxy.access_log ({', '.join(COLUMNS)}) VALUES ({places})",
                [[row[name] for name in COLUMNS] for row in rows],
            )
            sql.execute("ANALYZE secretproxy.access_log")

    def execute(self, *statements: str) -> None:
        with self.connected() as sql:
            for statement in statements:
                sql.execute(statement)

    def alter(self, statement: str, values: tuple[Any, ...]) -> None:
        """Changes rows of the log, past the trigger that forbids it."""
        with self.connected() as sql:
            sql.execute("SET session_replication_role = replica")
            assert sql.execute(statement, values).rowcount == 1

    def keep(self, step: int = 97, settled: int = 0, again: bool = False) -> int:
        """Makes all steps; gives how many. `again`: as if nobody had looked at the sums for an hour."""
        with self.connected() as sql:
            if again:
                sql.execute("UPDATE secretproxy.sums SET checked = '-infinity'")
            for steps in range(2000):
                if not sql.execute("SELECT secretproxy.keep_sums(%s, %s)", (step, settled)).fetchone()[0]:
                    return steps
        raise AssertionError("the steps do not end")


@pytest.fixture
def owner(postgres: Backend, database: str) -> Owner:
    return Owner(postgres.dsn(database=database))


def like(row: dict[str, Any], **other: Any) -> dict[str, Any]:
    return row | {"id": uuid.uuid4(), "seq": random.getrandbits(40)} | other


def spread(rows: list[dict[str, Any]], until: datetime) -> list[dict[str, Any]]:
    """Spreads rows over months that end at `until`.

    In the fifty minutes after it come so many direct reads that nothing else is among the last rows, which are in no
    sum yet: the second outcome of an access that is in one would have every row counted."""
    last = max(row["at"] for row in rows)
    one = next(row for row in rows if row["event"] == "direct")
    reads = [
        one | {"id": uuid.uuid4(), "at": until + timedelta(seconds=27 * nth), "operation": "read"}
        for nth in range(1, 111)
    ]
    return [{**row, "at": until - (last - row["at"]) * SPREAD} for row in rows] + reads


def partition_of(ago: int) -> str:
    year, month = divmod(datetime.now(UTC).year * 12 + datetime.now(UTC).month - 1 - ago, 12)
    return f"secretproxy.access_log_{year}_{month + 1:02}"


def months_of(rows: list[dict[str, Any]]) -> set[str]:
    return {f"{row['at']:%Y-%m}" for row in rows}


def guesses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes verifies in a row, of a secret that a row amid them is for."""
    direct = [row for row in rows if row["event"] == "direct" and row["owner_id"]]
    one = direct[2]
    return [like(one, at=one["at"] + timedelta(seconds=20 * nth), operation="verify") for nth in range(1, 8)]


async def both(log: Any, kept: bool | None = True) -> counting.Answers:
    """Gives the counts, which are the same with sums and without; `kept` says whether sums are used; None: they may."""
    expected = await counting.stats(log, Filter(), limit=None, evening=22, morning=6, recount=True)
    found = await counting.stats(log, Filter(), limit=None, evening=22, morning=6)
    assert expected.kept_upto is None
    assert kept is None or (found.kept_upto is not None) == kept
    for name, table in expected.items():
        assert found[name] == table, name
    return found


@pytest.mark.parametrize("seed", [1, 3])
async def test_sums_give_the_answers_of_the_rows(log: Any, owner: Owner, seed: int) -> None:
    """Rows come in the order of their times, and the sums grow with them; then some come late."""
    draw = random.Random(seed)
    rows = spread(made(draw, 400), datetime.now(UTC) - timedelta(hours=1))
    assert len(months_of(rows)) > 1
    rows += guesses(rows)
    rows.sort(key=lambda row: row["at"])
    late = [row for row in rows if draw.random() < 0.02]
    rows = [row for row in rows if row not in late]
    edges = sorted(draw.sample(range(len(rows)), 3))
    for first, last in zip([0, *edges], [*edges, len(rows)], strict=True):
        owner.add(rows[first:last])
        owner.keep(step=draw.choice([23, 97, 400]))
        # Not where the last rows have the second outcome of a call.
        await both(log, kept=None)
    # An edge within five minutes makes some of its rows late.
    owner.keep(step=7, again=True)
    await both(log)
    assert await counting.unlike(log) == ([], True)
    # Late rows before the sums' end: these are left alone, then made again.
    owner.add(late)
    await both(log, kept=False)
    owner.keep(step=5, again=True)
    found = await both(log)
    assert found["outcomes"].rows and found["many_verifies"].rows
    assert await counting.unlike(log) == ([], True)


async def test_a_row_that_is_young_is_in_no_sum(log: Any, owner: Owner) -> None:
    rows = spread(made(random.Random(5), 200), datetime.now(UTC))
    owner.add(rows)
    owner.keep(step=20, settled=2 * 86400)
    found = await both(log)
    assert found.kept_upto is not None
    assert found.kept_upto < datetime.now(UTC) - timedelta(days=2)


async def test_a_small_log_has_no_sums(log: Any, owner: Owner) -> None:
    owner.add(spread(made(random.Random(5), 50), datetime.now(UTC)))
    assert owner.keep(step=100_000) == 0
    await both(log, kept=False)


def ended(rows: list[dict[str, Any]], upto: datetime) -> dict[str, Any]:
    """Finds an attempt well before `upto` with one plain outcome."""
    by_statement: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_statement.setdefault((row["session_id"], row["statement_no"]), []).append(row)
    return next(
        those[0] for those in by_statement.values()
        if [row["event"] for row in those] == ["attempt", "outcome"] and those[0]["owner_id"] and those[0]["secret_names"]
        and those[0]["at"] < upto - timedelta(days=20) and those[1]["at"] < upto - timedelta(days=10)
    )  # fmt: skip


async def test_sums_that_do_not_fit_are_left_alone_and_made_again(log: Any, owner: Owner) -> None:
    """Tries each way in which rows can come to differ from sums that were made of them."""
    rows = sorted(
        spread(made(random.Random(7), 300), datetime.now(UTC) - timedelta(hours=1)), key=lambda row: row["at"]
    )
    owner.add(rows)
    owner.keep()
    upto = (await both(log)).kept_upto
    assert upto is not None
    one = ended(rows, upto)
    now = datetime.now(UTC)
    vague = next(row for row in rows if row["event"] == "attempt" and row["secret_names"] is None and row["session_id"])
    plain = {"event": "outcome", "function": None, "operation": None, "owner_id": None, "secret_names": None}

    async def differs() -> None:
        await both(log, kept=False)
        # What changes a sum is found when the next rows are added, what came late when the sums are looked at.
        owner.add([like(one, at=now - timedelta(minutes=20) + timedelta(microseconds=nth), session_id=uuid.uuid4(),
                        event="access", outcome="ok") for nth in range(100)])  # fmt: skip
        owner.keep(again=True)
        owner.keep(again=True)
        await both(log)

    # A row that comes late; one in a month that had none; one before the first.
    owner.add([like(one, at=one["at"] + timedelta(seconds=1), statement_no=-5)])
    await differs()
    owner.add([like(one, at=rows[0]["at"] - timedelta(days=70), statement_no=-6)])
    await differs()
    # A second outcome, long after the first; a call that shows what an attempt was for.
    owner.add([like(one, at=now - timedelta(minutes=30), outcome="lost", sqlstate="58030", **plain)])
    await differs()
    owner.add([like(vague, at=now - timedelta(minutes=29), event="call", owner_id=uuid.uuid4(), secret_names=["late"])])
    await differs()
    # A row that was removed, and one that was rewritten.
    owner.alter("DELETE FROM secretproxy.access_log WHERE id = %s", (one["id"],))
    await differs()
    owner.alter("UPDATE secretproxy.access_log SET operation = 'delete' WHERE id = %s", (vague["id"],))
    await differs()
    # One was removed, another came.
    owner.alter("DELETE FROM secretproxy.access_log WHERE id = %s", (vague["id"],))
    owner.add([like(vague, at=vague["at"] + timedelta(seconds=1))])
    await differs()
    # Sums of another version.
    owner.execute("UPDATE secretproxy.sums SET form = 99")
    await differs()


async def test_an_outcome_that_comes_late_ends_an_open_access(log: Any, owner: Owner) -> None:
    rows = sorted(
        spread(made(random.Random(9), 200), datetime.now(UTC) - timedelta(hours=2)), key=lambda row: row["at"]
    )
    owner.add(rows)
    owner.keep(step=50)
    before = await both(log)
    still_open = [row["id"] for row in await log.fetch("SELECT id FROM secretproxy.sums_open ORDER BY at")]
    assert still_open and before.kept_upto is not None
    one = next(row for row in rows if row["id"] == still_open[0])
    end = like(one, at=datetime.now(UTC) - timedelta(minutes=30), event="outcome", outcome="error", sqlstate="42501", role="late",
               function=None, operation=None, owner_id=None, secret_names=None)  # fmt: skip
    owner.add([end])
    found = await both(log)
    assert found.kept_upto == before.kept_upto
    # With its outcome it goes into the sums.
    owner.add([like(one, at=end["at"] + timedelta(seconds=1, microseconds=nth), event="access", outcome="ok", session_id=uuid.uuid4())
               for nth in range(60)])  # fmt: skip
    assert owner.keep(step=50)
    found = await both(log)
    assert found.kept_upto > before.kept_upto
    assert one["id"] not in {row["id"] for row in await log.fetch("SELECT id FROM secretproxy.sums_open")}
    assert any(row["role"] == "late" for row in await log.fetch("SELECT role FROM secretproxy.sums_users"))


# What somebody writes into the sums who may: statements, and whether `stats` notices without counting again, or what
# `verify` says.
NOT_USED = ""
OWN_SUMS = {
    "another number": (["UPDATE secretproxy.sums_users SET n = n + 1 WHERE ctid = (SELECT min(ctid) FROM secretproxy.sums_users)"], NOT_USED),
    "another number, twice": (
        ["UPDATE secretproxy.sums_users SET n = n + 1 WHERE ctid = (SELECT min(ctid) FROM secretproxy.sums_users)",
         "UPDATE secretproxy.sums SET ended = ended + 1 WHERE month = (SELECT month FROM secretproxy.sums_users ORDER BY ctid LIMIT 1)"], NOT_USED),
    "from one user to another": (
        ["UPDATE secretproxy.sums_users SET n = n + 1 WHERE ctid = (SELECT ctid FROM secretproxy.sums_users ORDER BY month DESC, db_user LIMIT 1)",
         "UPDATE secretproxy.sums_users SET n = n - 1 WHERE ctid = (SELECT ctid FROM secretproxy.sums_users ORDER BY month DESC, db_user DESC LIMIT 1)"], "by user"),
    "a later access": (
        ["UPDATE secretproxy.sums_users SET latest = latest + interval '1 s' WHERE ctid = (SELECT min(ctid) FROM secretproxy.sums_users)"], "by user"),
    "another secret": (
        ["UPDATE secretproxy.sums_secrets SET secret_names = '{harmless}' WHERE ctid = "
         "(SELECT ctid FROM secretproxy.sums_secrets WHERE owner_id IS NOT NULL ORDER BY n DESC LIMIT 1)"], "by secret"),
    "a known secret": (
        ["UPDATE secretproxy.sums_secrets SET earliest = earliest - interval '1 s' WHERE ctid = (SELECT min(ctid) FROM secretproxy.sums_secrets)"],
        "by secret"),
    "no error": (
        ["UPDATE secretproxy.sums_hours SET outcome = 'ok' WHERE ctid = (SELECT ctid FROM secretproxy.sums_hours WHERE outcome = 'error' LIMIT 1)"],
        "by hour and outcome"),
    # The same hour in this zone, another in others.
    "another quarter": (
        ["UPDATE secretproxy.sums_hours SET quarter = quarter + 1 WHERE ctid = (SELECT ctid FROM secretproxy.sums_hours WHERE quarter % 4 = 0 LIMIT 1)"],
        "by hour and outcome"),
    "a day later": (
        ["UPDATE secretproxy.sums_hours SET quarter = quarter + 96 WHERE ctid = (SELECT min(ctid) FROM secretproxy.sums_hours)"], "by hour and outcome"),
    "no verifies": (["UPDATE secretproxy.sums_secrets SET verifies = NULL WHERE verifies >= 3"], "fewer verifies"),
    "parts of no month that add up to nothing": (
        ["INSERT INTO secretproxy.sums_users VALUES ('1999-01-01Z', 'alice', NULL, NULL, 5, now()), ('1999-01-01Z', 'app', NULL, NULL, -5, now())"],
        "none of theirs"),
    "an open access that ended": (
        ["INSERT INTO secretproxy.sums_open SELECT m.month, l.id, l.at FROM secretproxy.sums m, secretproxy.access_log l "
         "WHERE l.event = 'direct' AND l.at < m.upto AND l.at >= m.month LIMIT 1",
         "UPDATE secretproxy.sums s SET open = (SELECT count(*) FROM secretproxy.sums_open o WHERE o.month = s.month)"], "other accesses by"),
    "no open access": (
        ["DELETE FROM secretproxy.sums_open WHERE id = (SELECT p.id FROM secretproxy.sums_open p JOIN secretproxy.access_log l ON l.id = p.id "
         "WHERE NOT EXISTS (SELECT FROM secretproxy.access_log o WHERE (o.session_id, o.statement_no, o.event) = (l.session_id, l.statement_no, 'outcome')) "
         "LIMIT 1)",
         "UPDATE secretproxy.sums s SET open = (SELECT count(*) FROM secretproxy.sums_open o WHERE o.month = s.month)"], "other accesses by"),
    "a month twice": (
        ["INSERT INTO secretproxy.sums SELECT month + interval '5 days', upto, known, form, leans, counted, times, rewritten, 0, 0, 0, 0, 0, now() "
         "FROM secretproxy.sums ORDER BY month DESC LIMIT 1",
         "UPDATE secretproxy.sums s SET (counted, times) = (SELECT count(*), coalesce(bit_xor((date_part('epoch', l.at) * 1000000)::bigint), 0) "
         "FROM secretproxy.access_log l WHERE l.at >= s.month AND l.at < s.upto) WHERE month = (SELECT max(month) FROM secretproxy.sums)"], NOT_USED),
    "of another form": (["UPDATE secretproxy.sums SET form = 99"], NOT_USED),
    "shorter than the log": (["UPDATE secretproxy.sums SET upto = upto - interval '1 hour'"], NOT_USED),
    "behind a rule": (["CREATE RULE r AS ON INSERT TO secretproxy.sums_users DO ALSO NOTHING"], NOT_USED),
    "no table": (["ALTER TABLE secretproxy.sums_users RENAME TO others", "CREATE VIEW secretproxy.sums_users AS TABLE secretproxy.others"], NOT_USED),
}  # fmt: skip
AGAIN = (
    "DO $$ BEGIN IF to_regclass('secretproxy.others') IS NOT NULL THEN "
    "DROP VIEW secretproxy.sums_users; ALTER TABLE secretproxy.others RENAME TO sums_users; END IF; END $$",
    "DROP RULE IF EXISTS r ON secretproxy.sums_users",
    # Which says in the catalog that there are no rules any more.
    "VACUUM secretproxy.sums_users",
)


async def test_own_sums_are_found_out(log: Any, owner: Owner) -> None:
    """Somebody with the owner's rights writes other sums: what does not add up is not used; what does, verify names."""
    rows = spread(made(random.Random(3), 300), datetime.now(UTC) - timedelta(hours=1))
    owner.add(rows + guesses(rows))
    owner.keep(step=400)
    assert (await both(log))["many_verifies"].rows
    kept = [(table, await log.fetch(f"SELECT * FROM secretproxy.{table}")) for table in TABLES]
    for name, (statements, expected) in OWN_SUMS.items():
        with owner.connected() as sql:
            for statement in statements:
                assert sql.execute(statement).rowcount != 0, name
        found, used = await counting.unlike(log)
        assert used == (expected != NOT_USED), name
        assert bool(found) == used and (not used or expected in found[0]), (name, found)
        if expected == NOT_USED:
            await both(log, kept=False)
        # As they were.
        owner.execute(*AGAIN, f"TRUNCATE {', '.join(f'secretproxy.{table}' for table in TABLES)}")
        with owner.connected() as sql:
            for table, those in kept:
                places = ", ".join(["%s"] * len(those[0]))
                sql.cursor().executemany(
                    f"INSERT INTO secretproxy.{table} VALUES ({places})", [tuple(row) for row in those]
                )
        assert await counting.unlike(log) == ([], True), name


async def test_nobody_keeps_the_sums_from_being_made(log: Any, owner: Owner, postgres: Backend, database: str) -> None:
    """Holds what a login and an auditor may hold; and two processes make no step at the same time."""
    owner.add(spread(made(random.Random(3), 100), datetime.now(UTC) - timedelta(hours=1)))
    async with log.transaction():
        await log.execute("LOCK TABLE secretproxy.sums IN ACCESS SHARE MODE")
        await log.execute("SELECT pg_advisory_xact_lock(hashtextextended('secretproxy.keep_sums', 0))")
        assert owner.keep(step=50)
    await both(log)
    with owner.connected() as one, one.transaction():
        one.execute("SELECT secretproxy.keep_sums(50, 0)")
        with psycopg.connect(postgres.dsn("journal", database), autocommit=True) as other:
            assert other.execute("SELECT secretproxy.keep_sums(50, 0)").fetchone() == (False,)


async def test_hours_are_those_of_the_reader(log: Any, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tells them in zones of quarters and halves of an hour; in others, sums are not used."""
    owner.add(spread(made(random.Random(4), 150), datetime(2026, 11, 15, tzinfo=UTC)))
    owner.keep(step=50)
    for zone in ("Asia/Kathmandu", "America/St_Johns", "Europe/Berlin", "Australia/Lord_Howe"):
        monkeypatch.setenv("TZ", zone)
        await both(log)

    async def seven_minutes(connection: Any) -> None:
        await connection.execute("SET TIME ZONE INTERVAL '+00:07' HOUR TO MINUTE")

    monkeypatch.setattr(counting.summary, "set_zone", seven_minutes)
    await both(log, kept=False)


async def test_a_month_that_is_removed_takes_its_sums_along(log: Any, owner: Owner) -> None:
    rows = spread(made(random.Random(2), 400), datetime.now(UTC) - timedelta(hours=1))
    first = min(months_of(rows))
    owner.add(rows)
    owner.keep()
    await both(log)
    owner.execute(f"DROP TABLE secretproxy.access_log_{first.replace('-', '_')}")
    await both(log, kept=False)
    owner.keep(again=True)
    found = await both(log)
    assert found.kept_upto is not None
    month = datetime.fromisoformat(f"{first}-01T00:00:00+00:00")
    for table in TABLES:
        assert await log.fetchval(f"SELECT min(month) FROM secretproxy.{table}") != month, table
    for ago in (1, 2, 3):
        if not await log.fetchval("SELECT to_regclass($1) IS NOT NULL", partition_of(ago)):
            owner.execute(ATTACH.format(ago=ago))


async def test_a_filter_is_answered_by_the_rows(log: Any, owner: Owner) -> None:
    owner.add(spread(made(random.Random(6), 150), datetime.now(UTC) - timedelta(hours=1)))
    owner.keep(step=50)
    for wanted in (Filter(user="app"), Filter(since=datetime.now(UTC) - timedelta(days=30)), Filter(outcome=("ok",))):
        assert (await counting.stats(log, wanted, limit=1, evening=22, morning=6)).kept_upto is None


def test_only_the_journal_makes_sums_and_only_auditors_read_them(postgres: Backend, database: str) -> None:
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as sql:
        for role in (
            "secretproxy_writer",
            "secretproxy_auditor",
            "authenticated",
            "anonymous",
            "secretproxy_api",
            "secretproxy_keys",
        ):
            may = role == "secretproxy_auditor"
            sql.execute(f"SET ROLE {role}")
            for table in TABLES:
                for statement in (
                    f"SELECT FROM secretproxy.{table}", f"DELETE FROM secretproxy.{table}", f"INSERT INTO secretproxy.{table} DEFAULT VALUES",
                    f"TRUNCATE secretproxy.{table}", f"UPDATE secretproxy.{table} SET month = month",
                    f"DO $$ BEGIN LOCK TABLE secretproxy.{table} IN ROW EXCLUSIVE MODE; END $$", f"CREATE INDEX ON secretproxy.{table} (month)",
                ):  # fmt: skip
                    if may and statement.startswith("SELECT"):
                        sql.execute(statement)  # type: ignore[call-overload]
                        continue
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        sql.execute(statement)  # type: ignore[call-overload]
            for function in ("drop_sums(NULL)", "add_to_sums(now(), now(), now(), now())", "keep_sums()"):
                if (role, function) == ("secretproxy_writer", "keep_sums()"):
                    continue
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    sql.execute(f"SELECT secretproxy.{function}")  # type: ignore[call-overload]
        sql.execute("SET ROLE secretproxy_writer")
        assert sql.execute("SELECT secretproxy.keep_sums()").fetchone() == (False,)
        for step, settled in ((0, 0), (None, 0), (2_000_000, 0), (1, -1), (1, 10**9)):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                sql.execute("SELECT secretproxy.keep_sums(%s, %s)", (step, settled))


async def test_the_housekeeping_has_sums_made(
    log: Any, owner: Owner, postgres: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal's housekeeping makes the steps, as secretproxy_writer and no other; a step that fails stops nothing."""
    monkeypatch.setattr(housekeeping, "SUMS_EVERY", 0.05)
    monkeypatch.setattr(housekeeping, "SUMS_PAUSE", 0.0)
    monkeypatch.setattr(housekeeping, "SUMS", "SELECT secretproxy.keep_sums(0)")
    owner.add(spread(made(random.Random(8), 150), datetime.now(UTC) - timedelta(hours=1)))

    async def connect() -> Any:
        return await asyncpg.connect(postgres.dsn("journal", database))

    with structlog.testing.capture_logs() as said:
        keeper = housekeeping.Housekeeping(
            connect, uuid.uuid4(), timeout=5, signer=None, checkpoint_every=10, checkpoint_seconds=60
        )
        keeper.start()
        try:
            async with asyncio.timeout(30):
                while not said:
                    await asyncio.sleep(0.02)
                monkeypatch.setattr(housekeeping, "SUMS", "SELECT secretproxy.keep_sums(40, 0)")
                while await log.fetchval("SELECT coalesce(sum(counted), 0) < 200 FROM secretproxy.sums"):
                    await asyncio.sleep(0.02)
        finally:
            await keeper.close(5, ended=True)
    assert [one["event"] for one in said] == ["sums of the log are not kept, so that `audit stats` takes longer"]
    assert said[0]["log_level"] == "warning" and "22023" in said[0]["cause"]
    await both(log)


def test_the_last_line_says_that_sums_were_used(large: None, owner: Owner, postgres: Backend, database: str) -> None:
    owner.add(spread(made(random.Random(8), 150), datetime.now(UTC) - timedelta(hours=1)))
    dsn = postgres.dsn("auditor", database)

    def last_line(*options: str) -> str:
        done = CliRunner().invoke(app, ["stats", "--dsn", dsn, *options])
        assert done.exit_code == 0
        return done.stderr.splitlines()[-1]

    assert "kept sums" not in last_line()
    owner.keep(step=50)
    for options in ((), ("--json",)):
        assert "were counted from kept sums" in last_line(*options) and "--recount" in last_line(*options)
    for options in (("--recount",), ("--user", "app"), ("--since", "90d")):
        assert "kept sums" not in last_line(*options)


def test_verify_names_a_sum_that_is_none_of_the_log(
    large: None, owner: Owner, postgres: Backend, database: str
) -> None:
    # Direct calls alone: the others would have to be a chain.
    rows = [row for row in made(random.Random(8), 900) if row["event"] == "direct"]
    owner.add(spread(rows, datetime.now(UTC) - timedelta(hours=1)))
    dsn = postgres.dsn("auditor", database)
    owner.keep(step=20)
    verify = ["verify", "--accept-unsigned", "--dsn", dsn]
    found = CliRunner().invoke(app, verify).stdout
    assert "\nthe sums that the log keeps for `audit stats` were counted again\n" in found and "sums: " not in found
    one = "(SELECT ctid FROM secretproxy.sums_secrets WHERE owner_id IS NOT NULL ORDER BY n DESC LIMIT 1)"
    owner.alter(f"UPDATE secretproxy.sums_secrets SET owner_id = gen_random_uuid() WHERE ctid = {one}", ())
    assert "sums: instance -: the kept sums of " in (found := CliRunner().invoke(app, verify).stdout)
    assert "have other accesses by secret than the log" in found
