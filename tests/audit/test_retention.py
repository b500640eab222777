"""Checks that old months go, what stays verifies, and rows that vanish without a signed end do not pass for
retention."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from secretproxy.audit import chain, retention
from secretproxy.audit.checkpoints import Checkpoint, Signer
from secretproxy.audit.columns import STORED
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Lines
from secretproxy.install import install
from secretproxy.install import verify as verify_installed
from secretproxy.session.events import Event, Identity
from tests.conftest import Backend
from tests.support.cli import secretproxy

OLD, CROSSING, NEW = (uuid.UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def months(postgres: Backend, tmp_path: Path) -> tuple[str, Path]:
    """Makes a database whose log has rows of three months; one instance ended in the first, one goes on into the
    third."""
    name = f"months_{uuid.uuid4().hex[:6]}"
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    asyncio.run(install(postgres.dsn(database=name), postgres.key_file, direct_calls="log"))
    with psycopg.connect(postgres.dsn(database=name), autocommit=True) as admin:
        for month in ("2020_01", "2020_02"):
            first = f"{month.replace('_', '-')}-01 00:00+00"
            admin.execute(
                f"CREATE TABLE secretproxy.access_log_{month} PARTITION OF secretproxy.access_log FOR VALUES FROM ('{first}') TO ('{first}'::timestamptz + interval '1 month')"
            )
            admin.execute(f"ALTER TABLE secretproxy.access_log_{month} OWNER TO secretproxy_owner")
            admin.execute(
                f"CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.access_log_{month}"
                " FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only()"
            )
        now = datetime.now(UTC)
        write(admin, OLD, [datetime(2020, 1, day, tzinfo=UTC) for day in range(1, 6)])
        write(
            admin,
            CROSSING,
            [
                *(datetime(2020, 1, day, tzinfo=UTC) for day in range(1, 6)),
                *(datetime(2020, 2, day, tzinfo=UTC) for day in range(1, 6)),
                now,
                now,
            ],
        )
        write(admin, NEW, [now, now, now])
        signer = Signer(tmp_path / "sign.key", tmp_path / "checkpoints.jsonl")
        for instance in (OLD, CROSSING, NEW):
            keep(admin, signer.sign(instance, 0, chain.GENESIS), signer)
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[testimony]\nkey_file = "{postgres.key_file}"\n[audit]\nretention = "400 days"\ncheckpoint_key_file = "{tmp_path}/sign.key"\ncheckpoint_file = "{tmp_path}/checkpoints.jsonl"\n'
    )
    return postgres.dsn(database=name), config


def keep(admin: psycopg.Connection[Any], signed: Checkpoint, signer: Signer | None = None) -> None:
    if signer is not None:
        signer.keep(signed)
    admin.execute(
        "INSERT INTO secretproxy.checkpoints (instance, seq, row_hash, at, signature, kind) VALUES (%s, %s, %s, %s, %s, %s)",
        (signed.instance, signed.seq, signed.row_hash, signed.at, signed.signature, signed.kind),
    )


def write(admin: psycopg.Connection[tuple[object, ...]], instance: uuid.UUID, times: list[datetime]) -> None:
    lines = Lines(NameMask(200, (), b"k"), instance)
    who = Identity(uuid.uuid4(), "app_user", "app")
    with admin.cursor().copy(f"COPY secretproxy.access_log ({', '.join(STORED)}) FROM STDIN") as copy:
        for seq, at in enumerate(times, 1):
            copy.write(
                lines.add(Event("call", who, seq, "f()"), round(at.timestamp() * 1_000_000), None).stored() + b"\n"
            )


def run(command: str, months: tuple[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    dsn, config = months
    return secretproxy(["audit", command, "--dsn", dsn, "--config", str(config), *arguments])


def months_there(months: tuple[str, Path]) -> set[str]:
    with psycopg.connect(months[0]) as sql:
        found = sql.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'access_log_2020%' AND relkind = 'r'"
        ).fetchall()
        return {str(name[0]) for name in found}


def test_old_months_go_and_the_rest_verifies(months: tuple[str, Path]) -> None:
    assert run("verify", months).returncode == 0
    dry = run("retention", months, "--dry-run")
    assert dry.returncode == 0 and "access_log_2020_01" in dry.stdout and "10 rows" in dry.stdout
    assert months_there(months) == {"access_log_2020_01", "access_log_2020_02"}
    gone = run("retention", months, "--drop")
    assert gone.returncode == 0, gone.stderr
    assert months_there(months) == set()
    proof = run("verify", months)
    assert proof.returncode == 0, proof.stdout
    assert "5 rows of 2 instances" in proof.stdout
    assert "nothing is that old" in run("retention", months).stdout


def test_detached_months_stay_as_tables(months: tuple[str, Path]) -> None:
    assert run("retention", months).returncode == 0
    assert months_there(months) == {"access_log_2020_01", "access_log_2020_02"}
    assert run("verify", months).returncode == 0
    assert "5 rows of 2 instances" in run("verify", months).stdout


def test_a_month_that_is_simply_dropped_is_missed(months: tuple[str, Path]) -> None:
    with psycopg.connect(months[0], autocommit=True) as admin:
        admin.execute("DROP TABLE secretproxy.access_log_2020_01")
    found = run("verify", months)
    assert found.returncode == 1 and "missing" in found.stdout


def test_rows_beyond_what_retention_signed_are_missed(months: tuple[str, Path]) -> None:
    assert run("retention", months, "--drop").returncode == 0
    with psycopg.connect(months[0], autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("DELETE FROM secretproxy.access_log WHERE instance = %s AND seq = 11", (CROSSING,))
    assert "missing" in run("verify", months).stdout


def test_a_log_that_does_not_verify_is_left_alone(months: tuple[str, Path]) -> None:
    with psycopg.connect(months[0], autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("UPDATE secretproxy.access_log SET db_user = 'x' WHERE instance = %s AND seq = 2", (OLD,))
    refused = run("retention", months, "--drop")
    assert refused.returncode == 1 and "does not verify" in refused.stderr
    assert len(months_there(months)) == 2


def test_rows_whose_month_had_no_partition_get_one_and_go_too(months: tuple[str, Path]) -> None:
    stray = uuid.uuid4()
    with psycopg.connect(months[0], autocommit=True) as admin:
        write(
            admin,
            stray,
            [
                datetime(2019, 11, 30, 23, 59, 59, 999999, UTC),
                datetime(2019, 12, 1, tzinfo=UTC),
                datetime(2031, 1, 1, tzinfo=UTC),
            ],
        )
        assert admin.execute("SELECT count(*) FROM secretproxy.access_log_default").fetchone() == (3,)
        keep(admin, Signer(months[1].parent / "sign.key").sign(stray, 0, chain.GENESIS))
        assert run("verify", months).returncode == 0
        done = run("retention", months, "--drop")
        assert done.returncode == 0, done.stderr
        assert "access_log_2019_11: removed" in done.stdout and "access_log_2019_12: removed" in done.stdout
        assert admin.execute("SELECT count(*) FROM secretproxy.access_log_default").fetchone() == (0,)
        assert admin.execute("SELECT seq FROM secretproxy.access_log_2031_01").fetchall() == [(3,)]
        for table in ("access_log_default", "access_log_2031_01"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                admin.execute(f"DELETE FROM secretproxy.{table}; TRUNCATE secretproxy.{table}")
    assert "6 rows of 3 instances" in run("verify", months).stdout
    asyncio.run(install_is_as_it_was(months[0]))


async def install_is_as_it_was(dsn: str) -> None:
    assert await verify_installed(dsn) == []


def test_a_journal_writes_over_the_turn_of_the_year(
    months: tuple[str, Path], postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions are there ahead; each row goes into its own, and the chain goes on."""
    dsn, _ = months
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("SELECT secretproxy.access_log_partitions(24)")
    turn = datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)

    moment = [round(turn.timestamp() * 1e9) - 3_000_000]

    def time_ns() -> int:
        moment[0] += 1_000_000
        return moment[0]

    monkeypatch.setattr(time, "time_ns", time_ns)

    async def write_six() -> None:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(dsn)

        journal = Journal(connect, NameMask(200, (), b"k"))
        await journal.start()
        for number in range(6):
            await journal.keep([Event("call", Identity(uuid.uuid4(), "turn", "app"), number, "f()")])
            if number == 4:
                moment[0] -= 3 * 86400 * 10**9  # a clock that is set back, and the time in the log with it
        assert await journal.close() == 0

    asyncio.run(write_six())
    with psycopg.connect(dsn) as sql:
        rows = sql.execute(
            "SELECT tableoid::regclass::text, at >= %s FROM secretproxy.access_log WHERE db_user = 'turn' ORDER BY seq",
            (turn,),
        ).fetchall()
    before, after = f"secretproxy.access_log_{turn.year - 1}_12", f"secretproxy.access_log_{turn.year}_01"
    assert rows == [(before, False)] * 2 + [(after, True)] * 3 + [(before, False)]
    found = run("verify", months, "--accept-unsigned")
    assert found.returncode == 0 and "1 times a proxy's clock went back" in found.stdout


def test_a_review_that_holds_the_log_does_not_hold_the_journal(months: tuple[str, Path]) -> None:
    """A month is missing, and somebody reads the default partition for long: the partition waits, rows do not."""
    dsn, _ = months
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE secretproxy.access_log_%s', to_char(now() AT TIME ZONE 'UTC' + interval '2 months', 'YYYY_MM'))); END $$"
        )
        reader.execute("SELECT count(*) FROM secretproxy.access_log")

        async def write() -> float:
            async def connect() -> asyncpg.Connection:
                return await asyncpg.connect(dsn)

            journal = Journal(connect, NameMask(200, (), b"k"), timeout=30)
            await journal.start()
            assert journal.available
            began = time.monotonic()
            await journal.keep([Event("call", Identity(uuid.uuid4(), "held", "app"), 1, "f()")])
            assert await journal.close() == 0
            return time.monotonic() - began

        assert asyncio.run(write()) < 10
        reader.rollback()
        assert admin.execute("SELECT secretproxy.access_log_partitions()").fetchone() == (1,)


def test_what_is_missing_is_said(months: tuple[str, Path]) -> None:
    text = months[1].read_text()
    months[1].write_text(text.replace('retention = "400 days"\n', ""))
    assert "audit.retention" in run("retention", months).stderr
    months[1].write_text("\n".join(line for line in text.splitlines() if "checkpoint" not in line))
    done = run("retention", months)
    assert done.returncode == 2 and "audit.checkpoint_key_file" in done.stderr
    months[1].write_text(text)
    assert run("retention", months, "--keep", "a while").returncode == 2
    # PostgreSQL reads a number as seconds, and m as minutes: every month but this one would be removed.
    for short, said in (("400", "write '400 days'"), ("400 m", "at least a day"), ("23 hours", "at least a day")):
        refused = run("retention", months, "--keep", short)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr


# --- what may not be believed ----------------------------------------------------------------------------------------


def as_owner(months: tuple[str, Path], statements: str) -> None:
    with psycopg.connect(months[0], autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica; SET search_path = secretproxy")
        admin.execute(statements)


def rewrite(months: tuple[str, Path], instance: uuid.UUID, times: list[datetime]) -> None:
    """Puts another chain, sound in itself, in an instance's place."""
    as_owner(months, f"DELETE FROM access_log WHERE instance = '{instance}'")
    with psycopg.connect(months[0], autocommit=True) as admin:
        write(admin, instance, times)


OLD_TIMES = [datetime(2020, 1, day, tzinfo=UTC) for day in range(1, 6)]


def test_retention_signs_no_chain_that_checkpoints_kept_elsewhere_deny(months: tuple[str, Path]) -> None:
    """The chain was made again, and the checkpoints in the database are gone: the file outside knows better."""
    directory = months[1].parent
    signer = Signer(directory / "sign.key", directory / "checkpoints.jsonl")
    with psycopg.connect(months[0], autocommit=True) as admin:
        found = admin.execute(
            "SELECT row_hash FROM secretproxy.access_log WHERE instance = %s AND seq = 5", (OLD,)
        ).fetchone()
    assert found is not None
    signer.keep(signer.sign(OLD, 5, bytes(found[0])))
    rewrite(months, OLD, OLD_TIMES)
    as_owner(months, "DELETE FROM checkpoints WHERE seq > 0")
    for arguments in ((), ("--drop",), ("--checkpoints", str(directory / "checkpoints.jsonl"))):
        refused = run("retention", months, *arguments)
        assert refused.returncode == 1 and "does not verify" in refused.stderr and str(OLD) in refused.stderr
    assert len(months_there(months)) == 2
    with (directory / "checkpoints.jsonl").open("a") as file:
        file.write("damaged\n")
    assert run("retention", months).returncode == 2


def test_retention_takes_no_chain_that_nothing_signed(months: tuple[str, Path]) -> None:
    as_owner(months, f"DELETE FROM checkpoints WHERE instance = '{OLD}'")
    (months[1].parent / "checkpoints.jsonl").write_text("")
    refused = run("retention", months, "--drop")
    assert refused.returncode == 1 and "no checkpoint vouches" in refused.stderr
    assert run("retention", months, "--drop", "--accept-unsigned").returncode == 0


def test_retention_refuses_rows_that_change_while_it_verifies(
    months: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(months[0])
        found = await retention.old(connection, "400 days")
        await asyncio.to_thread(rewrite, months, OLD, OLD_TIMES)
        with pytest.raises(retention.ChangedError):
            await retention.remove(
                connection, found, Signer(months[1].parent / "sign.key"), drop=True, progress=lambda gone: None
            )
        await connection.close()

    asyncio.run(work())
    assert len(months_there(months)) == 2


@pytest.mark.parametrize("kind", ["retention", "end", "before"])
def test_without_a_public_key_no_row_says_that_others_may_be_gone(
    months: tuple[str, Path], tmp_path: Path, kind: str
) -> None:
    """Whoever may write the log may write a signed end without a signature, too."""
    (tmp_path / "keyless.toml").write_text(f'[testimony]\nkey_file = "{tmp_path}/none"\n')
    keyless = (months[0], tmp_path / "keyless.toml")
    as_owner(
        months,
        "INSERT INTO checkpoints (instance, seq, row_hash, at, signature, kind)"
        f" SELECT instance, seq, row_hash, now(), 'x', '{kind}' FROM access_log WHERE instance = '{CROSSING}' AND seq = 6;"
        f"DELETE FROM access_log WHERE instance = '{CROSSING}' AND seq < 7",
    )
    found = run("verify", keyless)
    assert found.returncode == 1 and "missing" in found.stdout
    if kind == "retention":
        assert "only --public-key can prove" in found.stdout
    with_key = run("verify", months)
    assert with_key.returncode == 1 and "the signature of a checkpoint is wrong" in with_key.stdout


def test_after_retention_only_the_key_proves_what_it_took(months: tuple[str, Path], tmp_path: Path) -> None:
    assert run("retention", months, "--drop").returncode == 0
    assert run("verify", months).returncode == 0
    (tmp_path / "keyless.toml").write_text(f'[testimony]\nkey_file = "{tmp_path}/none"\n')
    found = run("verify", (months[0], tmp_path / "keyless.toml"))
    assert found.returncode == 1 and "only --public-key can prove" in found.stdout


GLITCHED = uuid.UUID(int=4)
GLITCHES = {
    "a glitch forward over months": [(2020, 1), (2020, 2), (2020, 1), (2020, 1)],
    "a glitch into the future": [(2020, 1), (2031, 5), (2020, 1), (2020, 2)],
    "a glitch back over the turn of a month": [(2020, 1), (2020, 2), (2020, 1), (2020, 2)],
    "far back": [(2020, 2), (1999, 1), (2020, 2), (2020, 2)],
}


@pytest.mark.parametrize("name", GLITCHES)
def test_retention_takes_months_of_a_clock_that_jumped(months: tuple[str, Path], name: str) -> None:
    times = [datetime(year, month, 10, 0, 0, second, tzinfo=UTC) for second, (year, month) in enumerate(GLITCHES[name])]
    times.append(datetime.now(UTC))
    with psycopg.connect(months[0], autocommit=True) as admin:
        write(admin, GLITCHED, times)
        keep(admin, Signer(months[1].parent / "sign.key").sign(GLITCHED, 0, chain.GENESIS))
    assert run("verify", months).returncode == 0
    # First one month, then all of them.
    days = (datetime.now(UTC) - datetime(2020, 2, 5, tzinfo=UTC)).days
    for until in (f"{days} days", "400 days"):
        gone = run("retention", months, "--drop", "--keep", until)
        assert gone.returncode == 0, gone.stderr
        found = run("verify", months)
        assert found.returncode == 0, found.stdout
    with psycopg.connect(months[0]) as admin:
        left = admin.execute(
            "SELECT seq FROM secretproxy.access_log WHERE instance = %s ORDER BY seq", (GLITCHED,)
        ).fetchall()
    assert [row[0] for row in left] == [seq for seq, at in enumerate(times, 1) if at.year > 2020]
    # What retention did not take may not go.
    as_owner(months, f"DELETE FROM access_log WHERE instance = '{GLITCHED}' AND seq = {left[0][0]}")
    assert run("verify", months).returncode == (1 if len(left) > 1 else 0)
