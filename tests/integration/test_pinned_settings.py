"""Checks that own connections do not take what roles, databases and poolers would give them: every setting that a login
can have, set to something hostile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

from secretproxy.connections import READING, connect
from secretproxy.connections.pinned import PINNED, PINNED_LATER
from secretproxy.demo.postgres import free_port

# What stays as the server has it, and why.
LEFT = {
    "plans and speed": """backend_flush_after commit_delay commit_siblings compute_query_id cpu_index_tuple_cost cpu_operator_cost
        cpu_tuple_cost cursor_tuple_fraction deadlock_timeout default_statistics_target effective_cache_size effective_io_concurrency
        enable_* file_copy_method from_collapse_limit geqo* gin_pending_list_limit hash_mem_multiplier io_combine_limit jit_*
        join_collapse_limit logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem max_parallel_* max_stack_depth
        min_parallel_* parallel_* random_page_cost recursive_worktable_factor seq_page_cost stats_fetch_consistency synchronize_seqscans
        temp_buffers temp_file_limit vacuum_* wal_compression wal_init_zero wal_recycle wal_skip_threshold work_mem""",
    "the connection's upkeep at the server": "client_connection_check_interval tcp_* wal_sender_timeout",
    "what the server logs and counts, a superuser's": """log_* track_* update_process_title event_triggers md5_password_warnings
        debug_pretty_print backtrace_functions trace_*""",
    "texts and passwords that no statement of ours makes": """lc_messages default_text_search_config timezone_abbreviations
        password_encryption scram_iterations icu_validation_level default_toast_compression""",
    "programs that a superuser names": """dynamic_library_path extension_control_path extension_destdir session_preload_libraries
        output_plugin_libraries jit_provider""",
    "for developers of PostgreSQL, a superuser's": """allow_in_place_tablespaces debug_* ignore_invalid_pages wal_consistency_checking
        optimize_bounded_sort""",
    "asyncpg's own": "application_name client_encoding",
    "of one transaction": "transaction_deferrable transaction_isolation transaction_read_only seed",
}


def is_left(name: str) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for patterns in LEFT.values()
        for pattern in patterns.split()
    )


def test_every_setting_of_the_server_is_decided(postgres: Backend) -> None:
    with psycopg.connect(postgres.dsn()) as connection:
        rows = connection.execute(
            "SELECT name FROM pg_settings WHERE context IN ('user', 'superuser') AND category <> 'Customized Options'"
        ).fetchall()
    names = {name for (name,) in rows}
    pinned = {name.lower() for name in (*PINNED, *PINNED_LATER)}
    assert sorted(name for name in names if name.lower() not in pinned and not is_left(name)) == []
    assert sorted(name for name in pinned if is_left(name) and not name.startswith(("debug_", "log_"))) == []


SPECIAL = {
    "search_path": "hostile, public", "DateStyle": "German, DMY", "TimeZone": "Asia/Kathmandu", "IntervalStyle": "sql_standard",
    "client_encoding": "LATIN1", "role": "hostile_group", "lc_monetary": "C.UTF-8", "lc_numeric": "C.UTF-8", "lc_time": "C.UTF-8",
    "default_tablespace": "pg_global", "application_name": "'; DROP", "restrict_nonsystem_relation_kind": "view, foreign-table",
    "createrole_self_grant": "set, inherit", "default_table_access_method": "hostile_am",
    "default_text_search_config": "pg_catalog.german", "default_transaction_read_only": "on", "statement_timeout": "1",
    "lock_timeout": "1", "idle_session_timeout": "1", "idle_in_transaction_session_timeout": "1", "transaction_timeout": "1",
    "extra_float_digits": "-15", "gin_fuzzy_search_limit": "1",
}  # fmt: skip
SCHEMA = """
CREATE ROLE hostile_group; CREATE SCHEMA hostile; GRANT ALL ON SCHEMA hostile TO public; CREATE ACCESS METHOD hostile_am TYPE TABLE HANDLER heap_tableam_handler;
CREATE ROLE hostile_journal LOGIN; GRANT secretproxy_writer, hostile_group TO hostile_journal;
CREATE ROLE hostile_auditor LOGIN; GRANT secretproxy_auditor, hostile_group TO hostile_auditor;
CREATE ROLE hostile_owner LOGIN SUPERUSER; GRANT pg_read_all_stats TO hostile_auditor;
"""
LOGINS = ("hostile_journal", "hostile_auditor", "hostile_owner")


def hostile(postgres: Backend) -> dict[str, str]:
    """Gives another value than what there is for every setting that a user may set."""
    found = {}
    with psycopg.connect(postgres.dsn()) as connection:
        rows = connection.execute(
            "SELECT name, setting, vartype, enumvals, min_val, max_val FROM pg_settings WHERE context = 'user' AND name NOT LIKE 'tcp%'"
        ).fetchall()
        special = {name.lower(): value for name, value in SPECIAL.items()}
        for name, setting, kind, choices, least, most in rows:
            if kind == "bool":
                found[name] = "off" if setting == "on" else "on"
            elif kind == "enum":
                found[name] = next(choice for choice in reversed(choices) if choice != setting)
            elif kind in ("integer", "real"):
                found[name] = least if least != setting else most
            if name.lower() in special:
                found[name] = special[name.lower()]
    # A server that speaks of every tree and plan takes too long here.
    return found | {"role": "hostile_group", "client_min_messages": "error"}


def apply(postgres: Backend, values: dict[str, str]) -> list[str]:
    """Sets them for each login, in general and in the database. Gives the names of those that the server takes."""
    taken = []
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for login in LOGINS:
            for name, value in values.items():
                for place in ("", " IN DATABASE app"):
                    statement = sql.SQL("ALTER ROLE {} " + place.strip() + " SET {} = {}").format(
                        sql.Identifier(login), sql.Identifier(name), sql.Literal(value)
                    )
                    with contextlib.suppress(psycopg.Error):
                        admin.execute(statement)
                        taken.append(name)
    return taken


@pytest.fixture(scope="module")
def hostile_logins(postgres: Backend) -> Iterator[dict[str, str]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(SCHEMA)
    yield hostile(postgres)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for login in (*LOGINS, "hostile_group"):
            admin.execute(f"REASSIGN OWNED BY {login} TO postgres; DROP OWNED BY {login}; DROP ROLE {login}")
        admin.execute("DROP SCHEMA hostile; DROP ACCESS METHOD hostile_am")


async def seen(dsn: str, **arguments: object) -> dict[str, str]:
    connection = await connect(dsn, "test", timeout=15, **arguments)  # type: ignore[arg-type]
    try:
        rows = await connection.fetch("SELECT name, setting FROM pg_catalog.pg_settings")
        return {row["name"].lower(): row["setting"] for row in rows} | {"role": await connection.fetchval("SHOW role")}
    finally:
        await connection.close()


def expected(found: dict[str, str], superuser: bool) -> dict[str, str]:
    pins = {name.lower(): value for name, value in (PINNED | PINNED_LATER).items() if name.lower() in found}
    if not superuser:
        for name in ("session_replication_role", "lo_compat_privileges", "zero_damaged_pages", "ignore_checksum_failure",
                     "allow_system_table_mods", "log_parameter_max_length"):  # fmt: skip
            pins.pop(name, None)
    return pins


@pytest.mark.parametrize("login", LOGINS)
async def test_all_hostile_settings_at_once_leave_what_is_pinned(
    postgres: Backend, hostile_logins: dict[str, str], login: str
) -> None:
    taken = apply(postgres, hostile_logins)
    assert len(set(taken)) > 100 and {
        "role",
        "search_path",
        "statement_timeout",
        "idle_session_timeout",
        "exit_on_error",
    } <= set(taken)
    found = await seen(postgres.dsn(login))
    pins = expected(found, login == "hostile_owner")
    assert {name: found[name] for name in pins} == pins
    reading = await seen(postgres.dsn(login), settings=READING)
    assert reading["default_transaction_read_only"] == "on" and reading["row_security"] == "off"
    left = await seen(postgres.dsn(login), settings={"default_transaction_read_only": None})
    assert left["default_transaction_read_only"] == "on"


async def test_a_timeout_in_the_string_itself_is_kept(postgres: Backend) -> None:
    found = await seen(postgres.dsn() + "?options=-c%20statement_timeout%3D7s%20-c%20search_path%3Dpublic")
    assert found["statement_timeout"] == "7000" and found["search_path"] == PINNED["search_path"]


async def test_a_pooler_between_that_takes_no_startup_parameter(
    postgres: Backend, hostile_logins: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "users").write_text("".join(f'"{login}" ""\n' for login in LOGINS))
    (tmp_path / "bouncer.ini").write_text(
        f"[databases]\napp = host={postgres.host} port={postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = trust\nauth_file = {tmp_path / 'users'}\npool_mode = session\nunix_socket_dir =\nlogfile = {tmp_path / 'log'}\n"
    )
    program = "/usr/sbin/pgbouncer"
    if not os.path.exists(program):
        pytest.skip("no pgbouncer")
    # A pooler's own server connections would not outlive these.
    values = {
        name: value
        for name, value in hostile_logins.items()
        if name not in ("idle_session_timeout", "exit_on_error", "statement_timeout", "transaction_timeout")
    }
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for login in LOGINS:
            admin.execute(f"ALTER ROLE {login} RESET ALL; ALTER ROLE {login} IN DATABASE app RESET ALL")
    apply(postgres, values)
    user = ["--user", "nobody"] if os.getuid() == 0 else []
    (tmp_path / "log").touch()
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    process = subprocess.Popen(
        [program, *user, str(tmp_path / "bouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            if process.poll() is not None or "process up" in (tmp_path / "log").read_text():
                break
            time.sleep(0.05)
        with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
            psycopg.connect(
                f"host=127.0.0.1 port={port} user=hostile_auditor dbname=app options='-c search_path=x' connect_timeout=10"
            ).close()
        found = await seen(f"postgresql://hostile_auditor@127.0.0.1:{port}/app")
        pins = expected(found, superuser=False)
        # What is loaded is loaded when the pooler logs in.
        pins.pop("local_preload_libraries")
        assert {name: found[name] for name in pins} == pins
    finally:
        process.terminate()
        process.wait(10)


def command(dsn: str, *arguments: str, config: Path) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
    environment["SECRETPROXY_CONFIG"] = str(config)
    done = secretproxy([*arguments, *(["--dsn", dsn] if dsn else [])], env=environment, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_every_command_answers_the_same(postgres: Backend, hostile_logins: dict[str, str], tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for login in LOGINS:
            admin.execute(f"ALTER ROLE {login} RESET ALL; ALTER ROLE {login} IN DATABASE app RESET ALL")
    owner = uuid.uuid4()
    running = Proxy(tmp_path, postgres.address, postgres.dsn("hostile_journal"), postgres.key_file, catalog=0.5)

    def answers() -> dict[str, object]:
        found: dict[str, object] = {}
        for name, login, arguments in (
            ("check", "", ("check", "--json")),
            ("list", "hostile_auditor", ("audit", "list", "--json", "--owner", str(owner))),
            ("stats", "hostile_auditor", ("audit", "stats", "--json", "--owner", str(owner))),
            ("verify the log", "hostile_auditor", ("audit", "verify", "--json")),
            ("export", "hostile_auditor", ("audit", "export", "-", "--owner", str(owner))),
            ("verify", "hostile_owner", ("verify", "--json")),
            ("install", "hostile_owner", ("install",)),
            ("keys", "hostile_owner", ("keys", "status", "--json")),
            ("doctor", "hostile_owner", ("doctor", "--json")),
        ):
            found[name] = command(postgres.dsn(login) if login else "", *arguments, config=running.config)
        return found

    def call() -> None:
        with psycopg.connect(running.dsn(), autocommit=True) as client:
            client.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', 'v')", [owner])
            client.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a')", [owner])

    running.start()
    running.wait_for_text("access log can be written")
    call()
    running.stop()
    before = answers()
    assert str(before["list"][1]).count(str(owner)) == 2  # type: ignore[index]
    apply(postgres, hostile_logins)
    after = answers()
    for name, answer in before.items():
        if name == "doctor":
            # It tells of settings, which these are.
            assert after[name][0] in (1, 3) and json.loads(after[name][1])  # type: ignore[index]
        elif name == "verify the log":
            # The export between the two was recorded, in a chain of its own, unless there are signed ones in the log.
            recorded = "not recorded in the log" not in before["export"][2]  # type: ignore[index]
            assert after[name][::2] == answer[::2]  # type: ignore[index]
            known, found = json.loads(answer[1]), json.loads(after[name][1])  # type: ignore[index]
            assert found == known | {what: known[what] + recorded for what in ("rows", "instances", "unsigned", "open")}
        else:
            assert after[name] == answer, name
    running.start()
    running.wait_for_text("access log can be written", 2)
    call()
    running.stop()
    assert "catalog cannot be read" not in running.text() and "cannot be written" not in running.text()
    listed = command(
        postgres.dsn("hostile_auditor"), "audit", "list", "--json", "--owner", str(owner), config=running.config
    )
    assert listed[1].count(str(owner)) == 4
    verified = command(postgres.dsn("hostile_auditor"), "audit", "verify", config=running.config)
    assert verified[0] == 0, verified
