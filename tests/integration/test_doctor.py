"""Checks each finding of the doctor: its condition is made, found, mended by what the finding says where that is SQL,
and gone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

from secretproxy.config import load_settings
from secretproxy.install import install
from secretproxy.install.keyfile import create_key_file
from secretproxy.ops.doctor import SEVERITIES, Finding, examine, logging

DATABASE = "doctor"
OWNER = "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2b"
GETTER = "encrypted_secrets.secrets_getter(uuid, text, text)"
QUIET = "ALTER SYSTEM SET log_min_error_statement = 'panic'; SELECT pg_reload_conf(); UPDATE secretproxy.settings SET direct_calls = 'refuse'"
# A week passes.
LATER = "SET session_replication_role = replica; UPDATE secretproxy.access_log SET at = at - interval '8 days' WHERE event IN ('direct', 'forgery')"


@dataclass
class Condition:
    """The SQL that brings a finding about; `since`: the oldest PostgreSQL that can; `cure`: where no statement mends
    it."""

    name: str
    sql: str
    since: int = 14
    until: int = 99
    cure: str | None = None
    says: str = ""


def setting(name: str, value: str, *more: str) -> list[Condition]:
    """A setting may be set for the database, for a role in it, for a role, and for the server."""
    places = {
        "DATABASE doctor": "database doctor",
        "ROLE app_user IN DATABASE doctor": "app_user",
        "ROLE app_user": "app_user",
        "SYSTEM": "",
    }
    if "." in name:
        del places["SYSTEM"]  # of an extension that is not loaded
    return [
        Condition(name, "; ".join([f"ALTER {place} SET {name} = {value}", *more, "SELECT pg_reload_conf()"]), says=says)
        for place, says in (
            places.items() if name in ("log_statement", "pgaudit.log_parameter") else [next(iter(places.items()))]
        )
    ]


CONDITIONS = [
    *setting("log_statement", "'all'"), *setting("log_statement", "'ddl'")[:1], *setting("log_min_duration_statement", "0"),
    *setting("log_min_duration_sample", "100"), *setting("log_transaction_sample_rate", "0.1"), *setting("log_min_error_statement", "'error'"),
    *setting("log_parameter_max_length_on_error", "-1"), *setting("debug_print_parse", "on"), *setting("debug_print_rewritten", "on"),
    *setting("debug_print_plan", "on"), *setting("pgaudit.log", "'read, write'"), *setting("pgaudit.log_parameter", "on"),
    *setting("auto_explain.log_min_duration", "0"), *setting("pg_stat_statements.track_utility", "on"), *setting("pg_qualstats.track_constants", "on"),
    *setting("pg_stat_monitor.pgsm_normalized_query", "off"), *setting("log_parameter_max_length", "-1", "ALTER DATABASE doctor SET log_statement = 'all'"),
    *setting("auto_explain.log_parameter_max_length", "-1", "ALTER DATABASE doctor SET auto_explain.log_min_duration = 0"),
    Condition("publication", "CREATE PUBLICATION leak FOR TABLE secrets_schema.secrets_table, secretproxy.keyring"),
    Condition("publication", "CREATE PUBLICATION leak FOR ALL TABLES"),
    Condition("publication", "CREATE PUBLICATION leak FOR TABLES IN SCHEMA secrets_schema", since=15),
    Condition("logical_slot", "SELECT pg_create_logical_replication_slot('leak', 'pgoutput')"),
    Condition("table_grant", "GRANT SELECT, UPDATE ON secrets_schema.secrets_table TO outsider"),
    Condition("table_grant", "GRANT SELECT (secrets_value_field) ON secrets_schema.secrets_table TO PUBLIC"),
    Condition("table_grant", "GRANT SELECT ON secretproxy.keyring TO outsider"),
    Condition("log_grant", "GRANT UPDATE ON secretproxy.access_log TO outsider"),
    Condition("log_grant", "GRANT INSERT ON secretproxy.access_log_default TO app_user"),
    Condition("schema_create", "GRANT CREATE ON SCHEMA encrypted_secrets TO outsider"),
    Condition("public_execute", f"GRANT EXECUTE ON FUNCTION {GETTER} TO PUBLIC"),
    Condition("owner_rights", "SELECT secretproxy.keep_owner_rights('outsider')", says="CREATE, USAGE on schema encrypted_secrets"),
    Condition("owner_member", "GRANT secretproxy_owner TO outsider", says="outsider"),
    Condition("owner_member", "GRANT secretproxy_owner TO doctor_group; GRANT doctor_group TO outsider", says="by way of doctor_group"),
    Condition("owner_member", "GRANT secretproxy_owner TO outsider WITH INHERIT FALSE, SET FALSE, ADMIN TRUE", since=16),
    Condition("owner_member", "GRANT secretproxy_owner TO outsider WITH ADMIN OPTION; SET ROLE outsider; GRANT secretproxy_owner TO doctor_group; RESET ROLE"),
    Condition("reads_everything", "GRANT pg_read_all_data TO outsider", says="pg_read_all_data"),
    Condition("reads_everything", "GRANT pg_execute_server_program TO doctor_group; GRANT doctor_group TO outsider", says="superuser"),
    Condition("createrole", "ALTER ROLE outsider CREATEROLE", until=15),
    Condition("replication_role", "ALTER ROLE outsider REPLICATION"),
    Condition("superusers", "ALTER ROLE outsider SUPERUSER"),
    Condition("direct_calls", "UPDATE secretproxy.settings SET direct_calls = 'log'"),
    Condition("direct_seen", "INSERT INTO secretproxy.access_log (event, db_user) VALUES ('direct', 'app_user')", cure=LATER),
    Condition("forgeries", "INSERT INTO secretproxy.access_log (event, db_user) VALUES ('forgery', 'app_user')", cure=LATER),
    Condition(
        "format_1",
        f"INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) VALUES ('{OWNER}', 'old', 'x', 'none');"
        "SET session_replication_role = replica; UPDATE secrets_schema.secrets_table SET secrets_enc_field = 'pgp', secrets_value_field ="
        f" secretproxy.pgp_encrypt_1('x', '{OWNER}') WHERE name = 'old'"),
    Condition("installation", f"ALTER FUNCTION {GETTER} OWNER TO postgres", says="secrets_getter"),
    Condition("installation", "CREATE OR REPLACE FUNCTION jwt_public.current_user_id() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT NULL::uuid'", says="body"),
    Condition("installation", "ALTER TABLE secrets_schema.secrets_table DISABLE TRIGGER ALL"),
]  # fmt: skip


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
            "audit": {
                "checkpoint_key_file": str(self.checkpoint_key),
                "checkpoint_file": str(self.checkpoint_key) + ".jsonl",
            },
        }

    def sql(self, statements: str) -> None:
        with psycopg.connect(self.postgres.dsn(database=DATABASE), autocommit=True) as admin:
            for statement in filter(str.strip, statements.split(";")):
                admin.execute(statement)

    def examine(self, user: str = "postgres", database: str = DATABASE) -> list[Finding]:
        self.write()
        return asyncio.run(examine(self.postgres.dsn(user, database), load_settings(self.config), self.config))

    def names(self, **how: str) -> list[str]:
        return [finding.name for finding in self.examine(**how)]

    def fix(self, finding: Finding) -> None:
        """Does what a finding says, word by word."""
        if not finding.fix.startswith("secretproxy "):
            self.sql(finding.fix)
            return
        words = [*finding.fix.split(" ")[1:], "--dsn", self.postgres.dsn(database=DATABASE)]
        environment = os.environ | {"SECRETPROXY_CONFIG": str(self.config)}
        secretproxy(words, env=environment).check_returncode()

    def write(self) -> None:
        sections = [
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            for name, values in self.settings.items()
        ]
        self.config.write_text("".join(sections))

    def run(
        self, *arguments: str, user: str = "postgres", database: str = DATABASE
    ) -> subprocess.CompletedProcess[str]:
        self.write()
        dsn = self.postgres.dsn(user, database)
        return secretproxy(["doctor", "--config", str(self.config), "--dsn", dsn, *arguments])

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
    asyncio.run(install(postgres.dsn(database=DATABASE), made.key_file, direct_calls="log"))
    made.checkpoint_key.touch(0o600)
    made.sql(QUIET)
    made.sql("CREATE ROLE doctor_group NOLOGIN")
    yield made
    made.sql("ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()")
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        admin.execute("DROP ROLE doctor_group")


def test_a_healthy_backend_has_no_findings(patient: Patient) -> None:
    assert patient.examine() == []
    done = patient.run()
    assert (done.stdout, done.returncode) == ("0 errors, 0 warnings, 0 info\n", 0)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: f"{condition.name}: {condition.sql[:60]}")
def test_a_condition_is_found_and_what_the_finding_says_mends_it(patient: Patient, condition: Condition) -> None:
    with psycopg.connect(patient.postgres.dsn()) as admin:
        version = admin.info.server_version // 10000
    if not condition.since <= version <= condition.until:
        pytest.skip(f"PostgreSQL {version} cannot be brought into this condition")
    assert patient.examine() == []
    try:
        patient.sql(condition.sql)
        found = eventually(patient.examine, lambda now: condition.name in [finding.name for finding in now])
        finding = next(finding for finding in found if finding.name == condition.name)
        assert finding.what and finding.why and finding.fix and finding.severity in SEVERITIES
        assert any(condition.says in now.what + now.why for now in found if now.name == condition.name)
        # Where several are found, each has its own; what a setting of a database hid, the server may still have.
        for _ in range(5):
            if not found:
                break
            patient.fix(found[0])
            if condition.cure is not None:
                patient.sql(condition.cure)
            found = eventually(patient.examine, lambda now, before=found: now != before)
        assert found == []
    finally:
        patient.sql(
            "ALTER DATABASE doctor RESET ALL; ALTER ROLE app_user RESET ALL; ALTER ROLE outsider NOSUPERUSER NOREPLICATION NOCREATEROLE;"
            "DROP PUBLICATION IF EXISTS leak; REVOKE doctor_group FROM outsider"
        )


def eventually(look: Callable[[], list[Finding]], wanted: Callable[[list[Finding]], bool]) -> list[Finding]:
    """A reload takes the server a moment."""
    deadline = time.monotonic() + 60
    while not wanted(now := look()):
        assert time.monotonic() < deadline, now
    return now


def test_a_member_that_can_use_nothing_of_it_is_none(patient: Patient) -> None:
    with psycopg.connect(patient.postgres.dsn()) as admin:
        if admin.info.server_version < 160000:
            pytest.skip("memberships without their rights are of PostgreSQL 16 and later")
    patient.sql("GRANT secretproxy_owner TO outsider WITH INHERIT FALSE, SET FALSE, ADMIN FALSE")
    assert patient.examine() == []
    patient.sql("REVOKE secretproxy_owner FROM outsider")


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
            assert set(patient.names()) == {name}
        key.chmod(0o600)
        patient.calm()
        patient.settings["listen"] = {"tls_key": str(key)}
        assert patient.examine() == []
        patient.settings["audit"] = {"dsn": "postgresql://journal:hidden@127.0.0.1/app"}
        patient.run()
        patient.config.chmod(0o644)
        done = patient.run("--json")
        assert {finding["name"] for finding in json.loads(done.stdout)} == {"config_mode", "checkpoints"}
        assert "hidden" not in done.stdout
        patient.config.chmod(0o600)
        assert patient.names() == ["checkpoints"]
        patient.calm()
        del patient.settings["audit"]["checkpoint_file"]
        assert patient.names() == ["checkpoint_file"]
    finally:
        patient.calm()
    assert patient.examine() == []


def test_another_key_than_the_databases_is_found(patient: Patient, tmp_path: Path) -> None:
    create_key_file(tmp_path / "other")
    patient.settings["testimony"] = {"key_file": str(tmp_path / "other")}
    assert patient.names() == ["installation"]
    patient.calm()
    assert patient.examine() == []


@pytest.mark.parametrize("ahead", [5.0, -5.0])
def test_clocks_that_differ_are_found(patient: Patient, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    clock = time.time
    monkeypatch.setattr("secretproxy.ops.doctor.backend.time", SimpleNamespace(time=lambda: clock() + ahead))
    assert patient.names() == ["clock_skew"]
    monkeypatch.undo()
    assert patient.examine() == []


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
        (finding,) = [finding for finding in patient.examine() if "127.0.0.2" in finding.what]
        assert finding.name == "direct_session"
        patient.fix(finding)
        while client.recv(65536):
            pass
    assert patient.examine() == []


def test_a_wide_view_of_running_statements_is_found() -> None:
    for size, names in (
        ("1024", []),
        ("16kB", ["track_activity_query_size"]),
        ("16384", ["track_activity_query_size"]),
    ):
        found = logging.examine(
            [logging.Setting("track_activities", "on"), logging.Setting("track_activity_query_size", size)]
        )
        assert [finding.name for finding in found] == names


def test_a_login_that_may_not_look_is_told_which_may(patient: Patient) -> None:
    (finding,) = patient.examine(user="outsider")
    assert finding.name == "not_looked_at" and "secretproxy_auditor" in finding.fix and "superuser" in finding.fix
    for topic in ("direct calls", "stored formats", "the log", "sessions"):
        assert topic in finding.what
    patient.fix(finding)
    patient.sql("UPDATE secretproxy.settings SET direct_calls = 'log'")
    try:
        names = patient.names(user="outsider")
        assert "direct_calls" in names
        (rest,) = [finding for finding in patient.examine(user="outsider") if finding.name == "not_looked_at"]
        assert "the installation" in rest.what and "the log" not in rest.what
    finally:
        patient.sql(f"REVOKE secretproxy_auditor, pg_read_all_stats FROM outsider; {QUIET}")


def test_a_database_without_the_backend_half_and_one_out_of_reach(patient: Patient) -> None:
    (finding,) = [finding for finding in patient.examine(database="postgres") if finding.severity == "error"]
    assert finding.name == "not_installed" and finding.fix == "secretproxy install"
    done = patient.run(database=f"none_{uuid.uuid4().hex}")
    assert done.returncode == 2 and "--dsn" in done.stderr and "Traceback" not in done.stderr


def test_words_for_people(patient: Patient) -> None:
    patient.sql("ALTER DATABASE doctor SET log_statement = 'all'")
    try:
        done = patient.run()
        assert done.returncode == 3 and "error: log_statement" in done.stdout and "fix: ALTER DATABASE" in done.stdout
        assert "\x1b" not in done.stdout
    finally:
        patient.sql("ALTER DATABASE doctor RESET log_statement")
