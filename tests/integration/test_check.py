"""Checks that `secretproxy check` writes rows to the log as the journal does, takes them back, and says what keeps them
out and which setting rules it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.support.cli import secretproxy
from tests.support.command import run
from tests.support.standby import Standby

from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.demo.postgres import PrivateServer
from secretproxy.install import install

DATABASE = "checked"
LOG = "secretproxy.access_log"
RAISES = (
    "CREATE FUNCTION public.raises() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hunter2'; END $$;"
)
DROPS = "CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
HANGS = "CREATE FUNCTION public.hangs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_sleep(60); RETURN NEW; END $$;"


@pytest.fixture(scope="module")
def database(postgres: Backend) -> Iterator[str]:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), postgres.key_file))
    yield postgres.dsn("journal", DATABASE)
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def checked(backend: Backend, directory: Path, dsn: str) -> tuple[int, str | None]:
    """Gives the exit status, and what is said of the log."""
    config = directory / "check.toml"
    config.write_text(
        f'[backend]\nhosts = ["{backend.address}"]\n[audit]\ndsn = "{dsn}"\ntimeout = 2.0\n[testimony]\nkey_file = "{backend.key_file}"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
    done = secretproxy(["check", "--json", "--config", str(config)], env=environment)
    assert "Traceback" not in done.stderr and "hunter2" not in done.stdout + done.stderr
    found = {one["check"]: one["fault"] for one in json.loads(done.stdout)}
    assert all(fault is None for name, fault in found.items() if name != "audit.dsn"), found
    return done.returncode, found["audit.dsn"]


async def tried(dsn: str) -> str | None:
    """Gives what a journal says of a log once it has tried it."""

    async def connect() -> Any:
        return await asyncpg.connect(dsn)

    journal = Journal(connect, NameMask(200, (), b"k" * 32))
    await journal.start()
    try:
        return journal.fault
    finally:
        await journal.close()


def test_a_log_that_takes_rows_is_well_and_has_none_of_them(postgres: Backend, database: str, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as admin:
        admin.execute("CREATE SEQUENCE public.tried; GRANT USAGE ON SEQUENCE public.tried TO secretproxy_writer")
        admin.execute(
            "CREATE FUNCTION public.counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.nextval('public.tried'); RETURN NEW; END $$"
        )
        admin.execute(f"CREATE TRIGGER counts BEFORE INSERT ON {LOG} FOR EACH ROW EXECUTE FUNCTION public.counts()")
        try:
            assert checked(postgres, tmp_path, database) == (0, None)
            # A sequence keeps what a rollback takes back: a row of each kind, and one by the other statement.
            assert admin.execute("SELECT last_value FROM public.tried").fetchone() == (8,)
            assert admin.execute(f"SELECT count(*) FROM {LOG}").fetchone() == (0,)
        finally:
            admin.execute(f"DROP TRIGGER counts ON {LOG}; DROP FUNCTION public.counts(); DROP SEQUENCE public.tried")


@pytest.mark.parametrize(
    ("harm", "undo", "words"),
    [
        (f"REVOKE INSERT ON {LOG} FROM secretproxy_writer", f"GRANT INSERT ON {LOG} TO secretproxy_writer", ["42501", "install --again"]),
        ("REVOKE USAGE ON SCHEMA secretproxy FROM secretproxy_writer, PUBLIC", "GRANT USAGE ON SCHEMA secretproxy TO secretproxy_writer, PUBLIC", ["42501", "install --again"]),
        (f"REVOKE INSERT ON {LOG} FROM secretproxy_writer; GRANT INSERT (id, at, event) ON {LOG} TO secretproxy_writer",
         f"REVOKE INSERT (id, at, event) ON {LOG} FROM secretproxy_writer; GRANT INSERT ON {LOG} TO secretproxy_writer", ["42501"]),
        (f"ALTER TABLE {LOG} ENABLE ROW LEVEL SECURITY", f"ALTER TABLE {LOG} DISABLE ROW LEVEL SECURITY", ["42501"]),
        (f"{RAISES} CREATE TRIGGER harm BEFORE INSERT ON {LOG} FOR EACH ROW EXECUTE FUNCTION public.raises()",
         f"DROP TRIGGER harm ON {LOG}; DROP FUNCTION public.raises()", ["P0001", "trigger"]),
        (f"{RAISES} CREATE TRIGGER harm AFTER INSERT ON {LOG} FOR EACH ROW WHEN (NEW.event = 'forgery') EXECUTE FUNCTION public.raises()",
         f"DROP TRIGGER harm ON {LOG}; DROP FUNCTION public.raises()", ["P0001", "trigger"]),
        (f"{RAISES} CREATE CONSTRAINT TRIGGER harm AFTER INSERT ON {LOG} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.raises()",
         f"DROP TRIGGER harm ON {LOG}; DROP FUNCTION public.raises()", ["P0001", "trigger"]),
        (f"{DROPS} CREATE TRIGGER harm BEFORE INSERT ON {LOG} FOR EACH ROW WHEN (NEW.event = 'outcome') EXECUTE FUNCTION public.drops()",
         f"DROP TRIGGER harm ON {LOG}; DROP FUNCTION public.drops()", ["trigger or a rule", "drops rows"]),
        (f"CREATE RULE harm AS ON INSERT TO {LOG} DO INSTEAD NOTHING", f"DROP RULE harm ON {LOG}", ["trigger or a rule"]),
        (f"{HANGS} CREATE TRIGGER harm BEFORE INSERT ON {LOG} FOR EACH ROW EXECUTE FUNCTION public.hangs()",
         f"DROP TRIGGER harm ON {LOG}; DROP FUNCTION public.hangs()", ["audit.timeout"]),
        (f"ALTER TABLE {LOG} ADD CONSTRAINT harm CHECK (event <> 'refusal') NOT VALID", f"ALTER TABLE {LOG} DROP CONSTRAINT harm", ["23514", "CHECK"]),
        (f"ALTER TABLE {LOG} RENAME COLUMN via TO harm", f"ALTER TABLE {LOG} RENAME COLUMN harm TO via", ["42703"]),
        (f"ALTER TABLE {LOG} RENAME TO elsewhere", "ALTER TABLE secretproxy.elsewhere RENAME TO access_log", ["42P01"]),
    ],
)  # fmt: skip
def test_what_keeps_rows_out_is_told(
    postgres: Backend, database: str, tmp_path: Path, harm: str, undo: str, words: list[str]
) -> None:
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as admin:
        admin.execute(harm)
        try:
            status, fault = checked(postgres, tmp_path, database)
        finally:
            admin.execute(undo)
    assert status == 1 and fault is not None and all(word in fault for word in words), fault
    assert checked(postgres, tmp_path, database) == (0, None)


def test_a_month_without_a_partition_is_told(postgres: Backend, database: str, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as admin:
        parts = [
            name
            for (name,) in admin.execute(
                f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{LOG}'::regclass"
            )
        ]
        bounds = {
            name: admin.execute(f"SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = '{name}'::regclass").fetchone() for name in parts
        }  # fmt: skip
        assert "secretproxy.access_log_default" in parts
        # Detached tables keep their names, so that no others are made for the months.
        for name in parts:
            admin.execute(f"ALTER TABLE {LOG} DETACH PARTITION {name}")
        try:
            status, fault = checked(postgres, tmp_path, database)
        finally:
            for name, bound in bounds.items():
                assert bound is not None
                admin.execute(f"ALTER TABLE {LOG} ATTACH PARTITION {name} {bound[0]}")
    assert status == 1 and fault is not None and "no partition for this month" in fault


def test_a_login_that_is_no_writer_is_told(postgres: Backend, database: str, tmp_path: Path) -> None:
    status, fault = checked(postgres, tmp_path, postgres.dsn("outsider", DATABASE))
    assert status == 1 and fault is not None and "member of secretproxy_writer" in fault


def test_a_parameter_that_is_refused_is_nothing_to_install(postgres: Backend, database: str, tmp_path: Path) -> None:
    for options, word in (("no_such_setting%3D1", "no_such_setting"), ("work_mem%3Dmuch", "work_mem")):
        status, fault = checked(postgres, tmp_path, f"{database}?options=-c%20{options}")
        assert (
            status == 1 and fault is not None and word in fault and "install" not in fault and "member" not in fault
        ), fault
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("ALTER ROLE secretproxy_writer RENAME TO another_writer")
        try:
            status, fault = checked(postgres, tmp_path, database)
        finally:
            admin.execute("ALTER ROLE another_writer RENAME TO secretproxy_writer")
    assert (
        status == 1 and fault is not None and "no role secretproxy_writer" in fault and "secretproxy install" in fault
    )


def test_a_standby_is_told_to_be_read_only(tmp_path: Path) -> None:
    with PrivateServer() as server:
        backend = prepare(server.host, server.port, tmp_path)
        with Standby(server) as standby:
            status, fault = checked(backend, tmp_path, f"postgresql://journal@{standby.host}:{standby.port}/app")
            wanted = f"postgresql://postgres@{standby.host}:{standby.port}/app"
            commands = (("keys", "rotate"), ("revert", "--yes"), ("install", "--again"))
            told = [run(*command, "--dsn", wanted) for command in commands]
            fault_of_journal = asyncio.run(tried(wanted.replace("postgres@", "journal@")))
    for said in told:
        assert said.status == 2 and "25006" in said.line and "name the primary with --dsn" in said.line, said
    assert fault_of_journal is not None and "25006" in fault_of_journal and "standby" in fault_of_journal
    assert status == 1 and fault is not None and "25006" in fault and "read-only" in fault
