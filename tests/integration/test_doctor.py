"""Each finding of the doctor: its condition is made, found, mended by what the finding says where that is SQL, and gone."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.proxy import Proxy

from secretproxy.install import install
from secretproxy.install.keyfile import create_key_file
from secretproxy.ops.doctor import backend as looking
from secretproxy.ops.doctor import logging

DATABASE = "doctor"
OWNER = "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2b"
QUIET = "ALTER DATABASE doctor SET log_min_error_statement = 'panic'; UPDATE secretproxy.settings SET direct_calls = 'refuse'"
# The condition in SQL, and how it goes away where the finding's own words are no statement.
CONDITIONS: dict[str, tuple[str, str | None]] = {
    **{
        name: (f"ALTER DATABASE doctor SET {name} = {value}", None)
        for name, value in {
            "log_statement": "'all'", "log_min_duration_statement": "0", "log_min_duration_sample": "100", "log_transaction_sample_rate": "0.1",
            "log_parameter_max_length_on_error": "-1", "debug_print_parse": "on", "debug_print_rewritten": "on", "debug_print_plan": "on",
            "pgaudit.log": "'read, write'", "pgaudit.log_parameter": "on", "auto_explain.log_min_duration": "0",
            "pg_stat_statements.track_utility": "on",
        }.items()
    },
    "log_min_error_statement": ("ALTER DATABASE doctor SET log_min_error_statement = 'error'", QUIET),
    "log_parameter_max_length": ("ALTER DATABASE doctor SET log_statement = 'all'", "ALTER DATABASE doctor RESET log_statement"),
    "auto_explain.log_parameter_max_length": (
        "ALTER DATABASE doctor SET auto_explain.log_min_duration = 0; ALTER DATABASE doctor SET auto_explain.log_parameter_max_length = -1",
        "ALTER DATABASE doctor RESET auto_explain.log_min_duration; ALTER DATABASE doctor RESET auto_explain.log_parameter_max_length"),
    "publication": ("CREATE PUBLICATION leak FOR TABLE secrets_schema.secrets_table", "DROP PUBLICATION leak"),
    "logical_slot": ("SELECT pg_create_logical_replication_slot('leak', 'pgoutput')", "SELECT pg_drop_replication_slot('leak')"),
    "table_grant": ("GRANT SELECT ON secrets_schema.secrets_table TO outsider", None),
    "public_execute": ("GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) TO PUBLIC", None),
    "owner_member": ("GRANT secretproxy_owner TO outsider", None),
    "superusers": ("CREATE ROLE second_super SUPERUSER LOGIN", "DROP ROLE second_super"),
    "direct_calls": ("UPDATE secretproxy.settings SET direct_calls = 'log'", QUIET),
    "format_1": (
        f"INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) VALUES ('{OWNER}', 'old', 'x', 'none');"
        "SET session_replication_role = replica; UPDATE secrets_schema.secrets_table SET secrets_enc_field = 'pgp', secrets_value_field ="
        f" secretproxy.pgp_encrypt_1('x', '{OWNER}') WHERE name = 'old'", "DELETE FROM secrets_schema.secrets_table"),
    "direct_seen": (
        "INSERT INTO secretproxy.access_log (event, db_user) VALUES ('direct', 'app_user')",
        "SET session_replication_role = replica; DELETE FROM secretproxy.access_log"),
    "forgeries": (
        "INSERT INTO secretproxy.access_log (event, db_user) VALUES ('forgery', 'app_user')",
        "SET session_replication_role = replica; DELETE FROM secretproxy.access_log"),
    "installation": ("ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) OWNER TO postgres",
        "ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) OWNER TO secretproxy_owner"),
}  # fmt: skip


class Patient:
    def __init__(self, postgres: Backend, directory: Path) -> None:
        self.postgres = postgres
        self.config = directory / "secretproxy.toml"
        self.key_file = directory / "keys"
        self.checkpoint_key = directory / "checkpoint.key"
        self.settings: dict[str, dict[str, Any]] = {}
        self.calm()

    def calm(self) -> None:
        self.settings = {
            "testimony": {"key_file": str(self.key_file)},
            "audit": {"checkpoint_key_file": str(self.checkpoint_key), "checkpoint_file": str(self.checkpoint_key) + ".jsonl"},
        }

    def sql(self, statements: str) -> None:
        with psycopg.connect(self.postgres.dsn(database=DATABASE), autocommit=True) as admin:
            for statement in filter(str.strip, statements.split(";")):
                admin.execute(statement)

    def run(self, *arguments: str, user: str = "postgres", database: str = DATABASE) -> subprocess.CompletedProcess[str]:
        sections = [
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            for name, values in self.settings.items()
        ]
        self.config.write_text("".join(sections))
        return subprocess.run(
            [sys.executable, "-m", "secretproxy", "doctor", "--config", str(self.config), "--dsn", self.postgres.dsn(user, database), *arguments],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def findings(self, **how: str) -> dict[str, dict[str, str]]:
        done = self.run("--json", **how)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        graves = {finding["severity"] for finding in found}
        assert done.returncode == (3 if "error" in graves else 1 if "warning" in graves else 0)
        return {finding["name"]: finding for finding in found}


@pytest.fixture(scope="module")
def patient(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    made = Patient(postgres, tmp_path_factory.mktemp("doctor"))
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), made.key_file))
    made.checkpoint_key.touch(0o600)
    made.sql(QUIET)
    yield made
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def test_a_healthy_backend_has_no_findings(patient: Patient) -> None:
    assert patient.findings() == {}
    assert patient.run().stdout == "0 errors, 0 warnings, 0 info\n"


@pytest.mark.parametrize("name", CONDITIONS)
def test_finding(patient: Patient, name: str) -> None:
    condition, cure = CONDITIONS[name]
    assert name not in patient.findings()
    patient.sql(condition)
    try:
        finding = patient.findings()[name]
        assert all(finding[key] for key in ("what", "why", "mend"))
    finally:
        patient.sql(cure if cure is not None else finding["mend"])
    assert patient.findings() == {}


def test_a_setting_of_another_role_is_found(patient: Patient) -> None:
    patient.sql("ALTER ROLE app_user IN DATABASE doctor SET log_min_duration_statement = 0")
    finding = patient.findings()["log_min_duration_statement"]
    assert "app_user" in finding["what"]
    patient.sql(finding["mend"])
    assert patient.findings() == {}


def test_the_proxys_own_side(patient: Patient, tmp_path: Path) -> None:
    key = tmp_path / "tls.key"
    key.write_text("x")
    key.chmod(0o644)
    try:
        for section, key_name, value, name in (
            ("listen", "host", "0.0.0.0", "listen_tls"), ("backend", "hosts", ["db.example.net:5432"], "backend_tls"),
            ("testimony", "key_file", str(tmp_path / "none"), "key_file"), ("listen", "tls_key", str(key), "file_mode"),
        ):  # fmt: skip
            patient.calm()
            patient.settings.setdefault(section, {})[key_name] = value
            assert set(patient.findings()) == {name}
        key.chmod(0o600)
        patient.calm()
        patient.settings["listen"] = {"tls_key": str(key)}
        assert patient.findings() == {}
        patient.settings["audit"] = {"dsn": "postgresql://journal:hidden@127.0.0.1/app"}
        patient.run()
        patient.config.chmod(0o644)
        done = patient.run("--json")
        assert {finding["name"] for finding in json.loads(done.stdout)} == {"config_mode", "checkpoints"}
        assert "hidden" not in done.stdout
        patient.config.chmod(0o600)
        assert set(patient.findings()) == {"checkpoints"}
        patient.calm()
        del patient.settings["audit"]["checkpoint_file"]
        assert set(patient.findings()) == {"checkpoint_file"}
    finally:
        patient.calm()
    assert patient.findings() == {}


def test_another_key_than_the_databases_is_found(patient: Patient, tmp_path: Path) -> None:
    create_key_file(tmp_path / "other")
    patient.settings["testimony"] = {"key_file": str(tmp_path / "other")}
    assert "installation" in patient.findings()
    patient.calm()


def test_clocks_that_differ_are_found(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        def __init__(self, ahead: float) -> None:
            self.ahead = ahead

        async def fetchval(self, query: str) -> float:
            return time.time() + self.ahead

    assert [finding.name for finding in asyncio.run(looking.clock(Clock(5)))] == ["clock_skew"]
    assert [finding.name for finding in asyncio.run(looking.clock(Clock(-5)))] == ["clock_skew"]
    assert asyncio.run(looking.clock(Clock(0.01))) == []


def test_a_session_from_where_no_proxy_is_is_found(patient: Patient, postgres: Backend, proxy: Proxy) -> None:
    if postgres.server is None:
        pytest.skip("the server is not ours to admit another address")
    with (postgres.server.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 127.0.0.2/32 trust\n")
    patient.sql("SELECT pg_reload_conf()")
    packet = b"user\0app_user\0database\0" + DATABASE.encode() + b"\0\0"
    with socket.create_connection((postgres.host, postgres.port), source_address=("127.0.0.2", 0)) as client:
        client.sendall(struct.pack("!II", len(packet) + 8, 196608) + packet)
        client.settimeout(20)
        greeting = b""
        while b"Z\0\0\0\x05I" not in greeting:
            part = client.recv(65536)
            assert part, "the server let nobody in"
            greeting += part
        assert "127.0.0.2" in patient.findings()["direct_session"]["what"]
        client.sendall(b"X\0\0\0\x04")
        while client.recv(65536):
            pass
    assert patient.findings() == {}


def test_a_wide_view_of_running_statements_is_found() -> None:
    for size, names in (("1024", []), ("16kB", ["track_activity_query_size"]), ("16384", ["track_activity_query_size"])):
        found = logging.examine([logging.Setting("track_activities", "on"), logging.Setting("track_activity_query_size", size)])
        assert [finding.name for finding in found] == names


def test_a_login_that_may_not_look_is_told_which_may(patient: Patient) -> None:
    found = patient.findings(user="outsider")
    assert "superuser" in found["not_looked_at"]["mend"]


def test_a_database_without_the_backend_half_and_one_out_of_reach(patient: Patient) -> None:
    assert "secretproxy install" in patient.findings(database="postgres")["not_installed"]["mend"]
    done = patient.run(database=f"none_{uuid.uuid4().hex}")
    assert done.returncode == 2 and "--dsn" in done.stderr and "Traceback" not in done.stderr


def test_words_for_people(patient: Patient) -> None:
    patient.sql("ALTER DATABASE doctor SET log_statement = 'all'")
    try:
        done = patient.run()
        assert done.returncode == 3 and "error: log_statement" in done.stdout and "mend: ALTER DATABASE" in done.stdout
        assert "\x1b" not in done.stdout
    finally:
        patient.sql("ALTER DATABASE doctor RESET log_statement")
