"""Checks that each alteration that a superuser makes with the triggers off is found and named, and an untouched log is
sound."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, get_args

import asyncpg
import psycopg
import pytest
from typer.testing import CliRunner

from secretproxy.audit import chain
from secretproxy.audit.checkpoints import Checkpoint, Signer, genuine, load_public, public_file, read_file
from secretproxy.audit.columns import CHAINED, STORED, WORDS
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Lines
from secretproxy.audit.verify import Report, verify_database
from secretproxy.cli.app import app
from secretproxy.config import ConfigError
from secretproxy.detect.functions import Operation
from secretproxy.install import install
from secretproxy.session.events import Event, EventKind, Identity, Outcome, Protocol
from tests.conftest import Backend
from tests.support.cli import secretproxy

BASE = "tamper_base"
NAMES = (
    "plain",
    "with, comma",
    'quo"te',
    "back\\slash",
    "tab\tnew\nline",
    "",
    "NULL",
    "Schlüssel \U0001f511",
    "{braces}",
    " space ",
)
A, B, C = (uuid.UUID(int=number << 100) for number in (1, 2, 3))
COLUMNS = {
    "id": "gen_random_uuid()", "at": "at + interval '1 microsecond'", "event": "'refusal'", "instance": "gen_random_uuid()", "seq": "seq + 1000",
    "session_id": "gen_random_uuid()", "statement_no": "statement_no + 1", "function": "'f'", "operation": "'delete'", "owner_id": "gen_random_uuid()",
    "secret_names": "ARRAY['other']", "encoding": "'none'", "via": "ARRAY['v()']", "protocol": "'fastpath'", "fingerprint": "'x'",
    "db_user": "'somebody'", "role": "'r'", "accessed_by": "NULL", "database": "NULL", "application_name": "'psql'", "client_addr": "'10.9.9.9'",
    "client_port": "1", "tls": "NOT tls", "outcome": "'lost'", "sqlstate": "'00001'", "duration": "coalesce(duration, 0) + 1e-9", "calls": "77",
}  # fmt: skip
# What is done, the kind that must be named, the row that it must be named at (None: any).
ALTERATIONS: dict[str, tuple[str, str, int | None]] = {
    **{
        f"column {name}": (f"UPDATE access_log SET {name} = {value} WHERE instance = '{A}' AND seq = 20", kind, row)
        for name, value in COLUMNS.items()
        for kind, row in [{"instance": ("missing", 20), "seq": ("missing", 20)}.get(name, ("changed", 20))]
    },
    "a name in an array of two": (f"UPDATE access_log SET secret_names = ARRAY['a', 'bc'] WHERE instance = '{A}' AND seq = 21", "changed", 21),
    "NULL for an empty name": (f"UPDATE access_log SET secret_names = ARRAY[NULL] WHERE instance = '{A}' AND secret_names = '{{\"\"}}'", "changed", None),
    "prev_hash": (f"UPDATE access_log SET prev_hash = sha256('x') WHERE instance = '{A}' AND seq = 20", "changed", 20),
    "row_hash": (f"UPDATE access_log SET row_hash = sha256('x') WHERE instance = '{A}' AND seq = 20", "changed", 20),
    "both hashes emptied": (f"UPDATE access_log SET row_hash = NULL, prev_hash = NULL WHERE instance = '{A}' AND seq = 20", "reordered", 20),
    "first row deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq = 1", "missing", 1),
    "a row in the middle deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq = 20", "missing", 20),
    "ten rows deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq BETWEEN 20 AND 29", "missing", 20),
    "every second row deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq % 2 = 0", "missing", 2),
    "last row deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq = 60", "truncated", 60),
    "tail deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq > 30", "truncated", 31),
    "an instance deleted": (f"DELETE FROM access_log WHERE instance = '{B}'", "truncated", None),
    "everything deleted": ("DELETE FROM access_log WHERE instance IS NOT NULL", "truncated", None),
    "a deleted row, the numbers closed up": (
        f"DELETE FROM access_log WHERE instance = '{A}' AND seq = 20; UPDATE access_log SET seq = seq - 1 WHERE instance = '{A}' AND seq > 20",
        "reordered", 20),
    "two rows change places": (
        f"UPDATE access_log SET seq = 999 WHERE instance = '{A}' AND seq = 20; UPDATE access_log SET seq = 20 WHERE instance = '{A}' AND seq = 25;"
        f"UPDATE access_log SET seq = 25 WHERE instance = '{A}' AND seq = 999", "reordered", 20),
    "neighbours change places": (
        f"UPDATE access_log SET seq = 999 WHERE instance = '{A}' AND seq = 20; UPDATE access_log SET seq = 20 WHERE instance = '{A}' AND seq = 21;"
        f"UPDATE access_log SET seq = 21 WHERE instance = '{A}' AND seq = 999", "reordered", 20),
    "a row copied": (
        f"INSERT INTO access_log SELECT (r).* FROM (SELECT jsonb_populate_record(a, '{{\"at\": \"2020-01-01\"}}') AS r FROM access_log a"
        f" WHERE instance = '{A}' AND seq = 20) c", "inserted", 20),
    "a row copied to a later time": (
        f"INSERT INTO access_log SELECT (r).* FROM (SELECT jsonb_populate_record(a, '{{\"at\": \"2040-01-01\"}}') AS r FROM access_log a"
        f" WHERE instance = '{A}' AND seq = 20) c",
        "inserted",
        20,
    ),
    "a row made up": (f"INSERT INTO access_log (event, instance, seq) VALUES ('call', '{A}', 20)", "inserted", 20),
    "a row made up at the end": (
        f"INSERT INTO access_log (event, instance, seq, prev_hash, row_hash) VALUES ('call', '{A}', 61, sha256('x'), sha256('y'))", "reordered", 61),
    "a row of no instance": ("INSERT INTO access_log (event, function) VALUES ('call', 'f')", "inserted", None),
    "a row of number 0": (f"INSERT INTO access_log (event, instance, seq) VALUES ('call', '{A}', 0)", "inserted", 0),
    "a row passed off as direct": (
        f"UPDATE access_log SET event = 'direct', instance = NULL, seq = NULL, prev_hash = NULL, row_hash = NULL WHERE instance = '{A}' AND seq = 20",
        "missing", 20),
    "a direct call with a number": (f"UPDATE access_log SET event = 'direct' WHERE instance = '{A}' AND seq = 20", "changed", 20),
    "a row moved to another instance": (f"UPDATE access_log SET instance = '{B}' WHERE instance = '{A}' AND seq = 60", "inserted", None),
    "two instances merged": (f"UPDATE access_log SET instance = '{A}', seq = seq + 60 WHERE instance = '{B}'", "reordered", 61),
    "a character that looks the same": (
        f"UPDATE access_log SET secret_names = ARRAY[normalize(secret_names[1], NFD)] WHERE instance = '{A}' AND secret_names[1] LIKE 'Schl%'", "changed", None),
    "a blank at a name's end": (f"UPDATE access_log SET db_user = db_user || ' ' WHERE instance = '{A}' AND seq = 20", "changed", 20),
    "an array of an array": (f"UPDATE access_log SET secret_names = ARRAY[secret_names] WHERE instance = '{A}' AND seq = 22", "changed", 22),
    "a network for an address": (f"UPDATE access_log SET client_addr = '192.0.2.0/24' WHERE instance = '{A}' AND seq = 20", "changed", 20),
    "an hour later": (f"UPDATE access_log SET at = at + interval '1 hour' WHERE instance = '{A}' AND seq BETWEEN 20 AND 25", "changed", 20),
    "an address forgotten": (f"UPDATE access_log SET client_addr = NULL WHERE instance = '{A}'", "changed", 1),
    "a user renamed everywhere": ("UPDATE access_log SET db_user = 'nobody' WHERE db_user IS NOT NULL", "changed", 1),
    "outcomes deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND event = 'outcome'", "missing", 3),
    "the beginning deleted": (f"DELETE FROM access_log WHERE instance = '{A}' AND seq <= 40", "missing", 1),
    "the beginning deleted, as if by retention": (
        f"DELETE FROM access_log WHERE instance = '{A}' AND seq <= 40; INSERT INTO checkpoints"
        f" SELECT instance, seq, row_hash, now(), signature, 'retention' FROM checkpoints WHERE instance = '{A}' AND seq = 40", "checkpoint", 40),
    "an end made a mere checkpoint": ("UPDATE checkpoints SET kind = 'checkpoint' WHERE kind = 'end'", "checkpoint", 60),
    "a checkpoint made an end": ("UPDATE checkpoints SET kind = 'end' WHERE seq = 40", "checkpoint", 40),
    "a checkpoint of another instance": (f"UPDATE checkpoints SET instance = '{B}' WHERE instance = '{A}' AND seq = 40", "checkpoint", 40),
    "a checkpoint dated back": ("UPDATE checkpoints SET at = at - interval '1 day' WHERE seq = 40", "checkpoint", 40),
    "a checkpoint changed": ("UPDATE checkpoints SET row_hash = sha256('x') WHERE seq = 60", "checkpoint", 60),
    "a checkpoint made up": (f"INSERT INTO checkpoints VALUES ('{A}', 70, sha256('x'), now(), '\\x00')", "checkpoint", 70),
}  # fmt: skip


@dataclass
class Site:
    postgres: Backend
    directory: Path

    @property
    def signed_file(self) -> Path:
        return self.directory / "checkpoints.jsonl"

    def verify(self, database: str, *, with_file: bool = False, signed_within: float = 60) -> Report:
        outside = [checkpoint for _, checkpoint in read_file(self.signed_file) if checkpoint] if with_file else []
        key = load_public(public_file(self.directory / "sign.key"))
        dsn = self.postgres.dsn("auditor", database)
        return asyncio.run(verify_database(dsn, outside, key, lambda done, total: None, signed_within=signed_within))


def events(who: Identity) -> list[Event]:
    made: list[Event] = []
    for number in range(20):
        owner, user = uuid.uuid4(), uuid.uuid4()
        names = (NAMES[number % len(NAMES)],) if number % 7 else ("ab", "c", None)
        attempt, call = (
            Event(
                kind, who, number, "encrypted_secrets.secrets_getter(uuid,text,text)", "read", owner, names, "pgp",
                ("a()", 'b("x")'), "simple", "0123abcd", "role", user,
            )
            for kind in ("attempt", "call")
        )  # fmt: skip
        end = Event("outcome", who, number, outcome="ok", calls=number, timing=attempt.timing, role="role")
        made += [attempt, call, end]
    return made


async def fill(site: Site) -> None:
    """Makes three instances with sixty rows each, checkpoints at every twenty and at the end; and two direct calls."""
    signer = Signer(site.directory / "sign.key", site.signed_file)

    async def connect() -> Any:
        return await asyncpg.connect(site.postgres.dsn("journal", BASE))

    for instance in (A, B, C):
        journal = Journal(connect, NameMask(200, (), b"k" * 32), instance=instance, signer=signer, checkpoint_every=20)
        await journal.start()
        address = ipaddress.ip_address("2001:db8::7" if instance == B else "192.0.2.7")
        who = Identity(uuid.uuid4(), "app\tuser", "app", "x" * 70, None if instance == C else address, 5, False)
        for number, event in enumerate(events(who), 1):
            await journal.keep([event])
            while number % 20 == 0 and f'"{instance}", "seq": {number},' not in site.signed_file.read_text():
                await asyncio.sleep(0.005)
        assert await journal.close() == 0


@pytest.fixture(scope="module")
def site(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(postgres, tmp_path_factory.mktemp("tamper"))
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {BASE}")
    asyncio.run(install(postgres.dsn(database=BASE), postgres.key_file, direct_calls="log"))
    asyncio.run(fill(made))
    with psycopg.connect(postgres.dsn(database=BASE), autocommit=True) as admin:
        admin.execute("INSERT INTO secretproxy.access_log (event, function) VALUES ('direct', 'f'), ('direct', 'g')")
    return made


@pytest.fixture
def copy(site: Site) -> Iterator[str]:
    name = f"tamper_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(site.postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {BASE}")
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def alter(site: Site, database: str, statements: str) -> None:
    with psycopg.connect(site.postgres.dsn(database=database), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica; SET search_path = secretproxy")
        assert admin.execute(statements).rowcount > 0


def test_an_untouched_log_is_sound(site: Site) -> None:
    for with_file in (False, True):
        report = site.verify(BASE, with_file=with_file)
        assert report.findings == []
        assert (report.rows, report.instances, report.direct, report.unsigned) == (180, 3, 2, 0)
        # Of each chain its beginning, three on the way and its end.
        assert report.checkpoints == (30 if with_file else 15)


def test_there_are_forty_alterations() -> None:
    assert len(ALTERATIONS) >= 40


@pytest.mark.parametrize("name", ALTERATIONS)
def test_alteration(site: Site, copy: str, name: str) -> None:
    statements, kind, seq = ALTERATIONS[name]
    alter(site, copy, statements)
    report = site.verify(copy)
    assert not report.sound
    assert kind in {finding.kind for finding in report.findings}, report.findings
    if seq is not None:
        assert seq in {finding.seq for finding in report.findings if finding.kind == kind}, report.findings
    if name.startswith("column") and kind == "changed":
        assert len(report.findings) == 1


def rehash(site: Site, database: str, first: int, last: int) -> None:
    """Makes the hashes of rows anew, as whoever knows how can."""
    with psycopg.connect(site.postgres.dsn(database=database), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica; SET search_path = secretproxy")
        for name, value in chain.SETTINGS.items():
            admin.execute(f"SET {name} = '{value}'")
        before = admin.execute(
            "SELECT row_hash FROM access_log WHERE instance = %s AND seq = %s", (A, first - 1)
        ).fetchone()
        previous = bytes(before[0]) if before else chain.GENESIS
        for seq in range(first, last + 1):
            with admin.cursor().copy(
                f"COPY (SELECT {', '.join(CHAINED)} FROM access_log WHERE instance = '{A}' AND seq = {seq}) TO STDOUT"
            ) as out:
                line = b"".join(bytes(part) for part in out)
            made = chain.link(previous, line.rstrip(b"\n"))
            admin.execute(
                "UPDATE access_log SET prev_hash = %s, row_hash = %s WHERE instance = %s AND seq = %s",
                (previous, made, A, seq),
            )
            previous = made


def fork(site: Site, database: str, first: int, last: int) -> None:
    """Writes rows of a second process that continues A's chain as well, each with hashes that fit."""
    with psycopg.connect(site.postgres.dsn(database=database), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica; SET search_path = secretproxy")
        for name, value in chain.SETTINGS.items():
            admin.execute(f"SET {name} = '{value}'")
        before = admin.execute(
            "SELECT row_hash FROM access_log WHERE instance = %s AND seq = %s", (A, first - 1)
        ).fetchone()
        assert before is not None
        previous = bytes(before[0])
        for seq in range(first, last + 1):
            admin.execute(
                "INSERT INTO access_log (event, instance, seq, db_user, at) SELECT 'call', instance, seq, 'twin', at + interval '1 microsecond'"
                " FROM access_log WHERE instance = %s AND seq = %s LIMIT 1",
                (A, seq),
            )
            query = f"SELECT {', '.join(CHAINED)} FROM access_log WHERE instance = '{A}' AND seq = {seq} AND db_user = 'twin'"
            with admin.cursor().copy(f"COPY ({query}) TO STDOUT") as out:
                made = chain.link(previous, b"".join(bytes(part) for part in out).rstrip(b"\n"))
            admin.execute(
                "UPDATE access_log SET prev_hash = %s, row_hash = %s WHERE instance = %s AND seq = %s AND db_user = 'twin'",
                (previous, made, A, seq),
            )
            previous = made


@pytest.mark.parametrize(("first", "last"), [(25, 25), (25, 30), (2, 59), (60, 60)])
def test_two_processes_that_wrote_as_one_are_told_once(site: Site, copy: str, first: int, last: int) -> None:
    fork(site, copy, first, last)
    findings = site.verify(copy).findings
    assert findings[0].kind == "two writers" and findings[0].seq == first
    # Of two rows that both fit, a checkpoint tells which one its process signed.
    assert {finding.kind for finding in findings} <= {"two writers", "changed"}
    assert sum(finding.kind == "two writers" for finding in findings) == 1


def test_rows_after_the_signed_end_do_not_belong_there(site: Site, copy: str) -> None:
    alter(
        site, copy,
        "INSERT INTO access_log (event, instance, seq, at)"
        f" SELECT 'call', '{A}', n, max(at) FROM access_log, generate_series(61, 63) n WHERE instance = '{A}' GROUP BY n",
    )  # fmt: skip
    rehash(site, copy, 61, 63)
    assert [(finding.kind, finding.seq) for finding in site.verify(copy).findings] == [("inserted", 61)]


def test_a_changed_row_with_a_new_hash_shows_at_its_successor(site: Site, copy: str) -> None:
    alter(site, copy, f"UPDATE access_log SET db_user = 'somebody' WHERE instance = '{A}' AND seq = 25")
    rehash(site, copy, 25, 25)
    assert [(finding.kind, finding.seq) for finding in site.verify(copy).findings] == [("changed", 25)]


def test_a_chain_made_anew_to_its_end_does_not_fit_its_checkpoints(site: Site, copy: str) -> None:
    alter(site, copy, f"UPDATE access_log SET db_user = 'somebody' WHERE instance = '{A}' AND seq = 25")
    rehash(site, copy, 25, 60)
    assert {(finding.kind, finding.seq) for finding in site.verify(copy).findings} == {("changed", 40), ("changed", 60)}


def test_without_checkpoints_in_the_table_those_of_the_file_tell(site: Site, copy: str) -> None:
    alter(site, copy, f"DELETE FROM checkpoints; DELETE FROM access_log WHERE instance = '{A}' AND seq > 30")
    # Nothing in the database can tell, before a chain must have a checkpoint.
    assert site.verify(copy, signed_within=3600).sound
    report = site.verify(copy, with_file=True)
    assert [(finding.kind, finding.seq) for finding in report.findings] == [("truncated", 31)]


def test_an_older_state_of_the_checkpoints_says_from_when_it_is(site: Site, copy: str, tmp_path: Path) -> None:
    """Log, table and file of an earlier day fit each other: only the time tells."""
    kept = [(line, Checkpoint.read(line)) for line in site.signed_file.read_text().splitlines()]
    old = tmp_path / "old"
    old.write_text("".join(line + "\n" for line, one in kept if one.instance == A and one.seq <= 20))
    key = str(public_file(site.directory / "sign.key"))
    alter(site, copy, f"DELETE FROM checkpoints WHERE instance <> '{A}' OR seq > 40")
    alter(site, copy, f"DELETE FROM access_log WHERE instance <> '{A}' OR seq > 40")

    def told(file: Path) -> str:
        arguments = ["--dsn", site.postgres.dsn("auditor", copy), "--public-key", key, "--checkpoints", str(file)]
        return CliRunner().invoke(app, ["audit", "verify", *arguments, "--config", str(config)]).output

    config = tmp_path / "config.toml"
    config.write_text(f'[testimony]\nkey_file = "{tmp_path}/none"\n')
    times = {one.seq: one.at.astimezone(UTC).isoformat(timespec="seconds") for _, one in kept if one.instance == A}
    found = told(old)
    assert "nothing was altered" in found
    assert f"the newest checkpoint is of {times[40]}: rows cut off since then would not show" in found
    if times[20] != times[40]:
        assert f"in the file of checkpoints: {times[20]}; later ones are those of the table alone" in found
    old.write_text("")
    assert f"the newest checkpoint is of {times[40]}" in told(old)
    old.write_text(Signer(tmp_path / "other").sign(A, 20, bytes(32)).line() + "\n")
    assert "in the file of checkpoints: none of this key" in told(old)
    whole = told(site.signed_file)
    assert (
        f"the newest checkpoint is of {max(one.at for _, one in kept).astimezone(UTC).isoformat(timespec='seconds')}"
        in whole
    )
    assert "truncated" in whole and "the table alone" not in whole


def test_without_its_end_a_chain_is_open_and_what_came_last_is_unsigned(site: Site, copy: str) -> None:
    report = site.verify(copy)
    assert report.sound and (report.open, report.unsigned) == (0, 0)
    alter(site, copy, "DELETE FROM checkpoints WHERE kind = 'end'")
    report = site.verify(copy)
    assert report.sound and (report.open, report.unsigned) == (3, 0)
    alter(site, copy, "DELETE FROM checkpoints WHERE seq = 60")
    report = site.verify(copy)
    assert report.sound and (report.open, report.unsigned) == (3, 60)


def test_every_kind_of_event_with_every_kind_of_text_verifies(site: Site, copy: str) -> None:
    """The journal hashes what PostgreSQL prints, whatever stands in a row."""
    odd = ["", "NULL", "null", "\\N", "\\.", "\\", '"', "{}", "{a,b}", ",", " ", "\t", "\r\n", "\x1b[2J", "\x7f", "\u202e", "\u00a0", "\u2028", "e\u0301", "\U0001f511", "\ud800", "a\0b", "\b\f\v", "x" * 300]  # fmt: skip
    draw = random.Random(11)

    def text() -> str | None:
        return draw.choice([None, "plain", *odd, *odd, "".join(draw.choices("".join(odd), k=5))])

    async def write() -> None:
        async def connect() -> Any:
            return await asyncpg.connect(site.postgres.dsn("journal", copy))

        addresses = [
            None,
            *map(ipaddress.ip_address, ("127.0.0.1", "::1", "::ffff:10.0.0.1", "2001:db8::1", "fe80::1")),
        ]
        for each_alone in (False, False, True):
            journal = Journal(connect, NameMask(200, (), b"k" * 32))
            await journal.start()
            for number in range(400):
                who = Identity(
                    uuid.uuid4(),
                    text(),
                    text(),
                    text(),
                    draw.choice(addresses),
                    draw.choice([None, 0, 65535]),
                    draw.random() < 0.5,
                )
                event = Event(
                    draw.choice(["attempt", "call", "outcome", "definition", "table", "refusal", "forgery"]),
                    who,
                    draw.choice([None, 0, 2**62]),
                )
                event.function, event.encoding = text(), draw.choice([None, "pgp", "crypt", "none"])
                event.operation = draw.choice([None, "read", "write", "verify", "delete"])
                event.owner_id, event.accessed_by = draw.choice([None, uuid.uuid4()]), draw.choice([None, uuid.uuid4()])
                event.secret_names = draw.choice([None, (), tuple(text() for _ in range(draw.randrange(4)))])
                event.via = draw.choice([None, (), tuple(text() or "" for _ in range(draw.randrange(4)))])
                event.role, event.outcome, event.calls = (
                    text(),
                    draw.choice([None, "ok", "lost"]),
                    draw.choice([None, 0, 2**62]),
                )
                event.sqlstate, event.protocol = (
                    draw.choice([None, "00000", "P0001"]),
                    draw.choice([None, "simple", "fastpath"]),
                )
                event.timing.began = time.monotonic() - draw.choice([0.0, 1e-6, 0.5, 12.25, 1e5, 1e-4 * draw.random()])
                if each_alone:
                    # Field by field, where none is escaped.
                    await journal.keep([event])
                else:
                    journal.append([event], wait=False)
                if number % 50 == 0:
                    await asyncio.sleep(0.01)
            assert await journal.close() == 0

    asyncio.run(write())
    report = site.verify(copy)
    assert report.findings == [] and report.rows == 180 + 1200


def test_a_command_gets_every_checkpoint(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    signer = Signer(tmp_path / "key", None, f"sh -c 'cat >> {kept}'")
    made = [signer.sign(A, number, b"h" * 32) for number in (1, 2)]
    for checkpoint in made:
        signer.keep(checkpoint)
    assert [checkpoint for _, checkpoint in read_file(kept)] == made
    with pytest.raises(OSError, match="checkpoint_command"):
        Signer(tmp_path / "key", None, "false").keep(made[0])


def test_the_key_is_for_its_owner_alone_and_its_public_half_for_all(tmp_path: Path) -> None:
    key = tmp_path / "key"
    made = Signer(key).sign(A, 1, b"h" * 32)
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in public_file(key).read_bytes() and genuine(made, load_public(public_file(key)))
    assert genuine(Signer(key).sign(A, 2, b"h" * 32), load_public(public_file(key)))  # read again, not made again
    assert "PRIVATE" not in repr(Signer(key))
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Signer(key)
    key.chmod(0o600)
    for wrong in (b"", b"no key", public_file(key).read_bytes()):
        key.write_bytes(wrong)
        with pytest.raises(ConfigError, match="checkpoint_key_file"):
            Signer(key)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return secretproxy(["audit", *arguments])


def test_the_command_says_it_and_exits_with_1(site: Site, copy: str) -> None:
    key = ("--public-key", str(public_file(site.directory / "sign.key")))
    dsn = ("--dsn", site.postgres.dsn("auditor", copy))
    sound = run("verify", *dsn, *key)
    assert sound.returncode == 0 and "nothing was altered" in sound.stdout
    alter(site, copy, f"DELETE FROM access_log WHERE instance = '{A}' AND seq = 20")
    damaged = run("verify", *dsn, *key, "--json")
    assert damaged.returncode == 1
    assert [finding["kind"] for finding in json.loads(damaged.stdout)["findings"]] == ["missing"]
    refused = run("verify", "--dsn", site.postgres.dsn("app_user", copy))
    assert refused.returncode == 2 and "secretproxy_auditor" in refused.stderr


def test_an_export_is_verified_without_the_database(site: Site, copy: str, tmp_path: Path) -> None:
    exported = tmp_path / "log.jsonl"
    assert run("export", str(exported), "--dsn", site.postgres.dsn("auditor", copy)).returncode == 0
    key = ("--public-key", str(public_file(site.directory / "sign.key")), "--checkpoints", str(site.signed_file))
    assert run("verify", "--file", str(exported), *key).returncode == 0
    lines = exported.read_text().splitlines()
    for number in (10, 100):
        row = json.loads(lines[number])
        row["db_user"] = "somebody"
        exported.write_text("\n".join([*lines[:number], json.dumps(row), *lines[number + 1 :]]) + "\n")
        assert run("verify", "--file", str(exported), *key).returncode == 1


# --- what hides rows, or lets strangers in
# -----------------------------------------------------------------------------

HIDDEN = {
    "a policy": "ALTER TABLE access_log ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON access_log USING (db_user <> 'x')",
    "a policy that is asleep": "CREATE POLICY p ON access_log USING (db_user <> 'x')",
    "a policy on a month": "ALTER TABLE access_log_default ENABLE ROW LEVEL SECURITY",
    "a policy on checkpoints": "ALTER TABLE checkpoints ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON checkpoints USING (false)",
    "a view in the log's place": "ALTER TABLE access_log RENAME TO kept; CREATE VIEW access_log AS SELECT * FROM kept WHERE db_user <> 'x'",
    "a rule": "CREATE RULE r AS ON INSERT TO access_log WHERE NEW.db_user = 'x' DO INSTEAD NOTHING",
    "a rule that is deaf": "CREATE RULE r AS ON UPDATE TO access_log_default DO INSTEAD NOTHING",
    "a trigger": "CREATE TRIGGER t BEFORE INSERT ON access_log FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a trigger on a month": "CREATE TRIGGER t BEFORE INSERT ON access_log_default FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a trigger of ours that is off": "ALTER TABLE access_log DISABLE TRIGGER append_only",
    "a trigger of ours that is off on a month": "ALTER TABLE access_log_default DISABLE TRIGGER append_only_truncate",
    "a trigger of ours that is gone": "DROP TRIGGER append_only ON checkpoints",
    "a trigger of ours that does nothing": "CREATE OR REPLACE FUNCTION access_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "a trigger of ours that only reads as if it refused": "CREATE OR REPLACE FUNCTION access_log_is_append_only() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN IF false THEN RAISE EXCEPTION 'append-only'; END IF; RETURN OLD; END $$",
    "a trigger of ours that fires for some rows": "DROP TRIGGER append_only ON access_log; CREATE TRIGGER append_only BEFORE UPDATE OR DELETE "
    "ON access_log FOR EACH ROW WHEN (OLD.seq IS NULL) EXECUTE FUNCTION access_log_is_append_only()",
    "a trigger of ours that lets rows be deleted": "DROP TRIGGER append_only ON access_log; CREATE TRIGGER append_only BEFORE UPDATE "
    "ON access_log FOR EACH ROW EXECUTE FUNCTION access_log_is_append_only()",
    "a trigger of ours for one column": "DROP TRIGGER append_only ON checkpoints; CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OF kind "
    "ON checkpoints FOR EACH ROW EXECUTE FUNCTION access_log_is_append_only()",
    "a unique index": "CREATE UNIQUE INDEX u ON access_log_default (db_user) WHERE db_user = 'x'",
    "a unique index on checkpoints": "CREATE UNIQUE INDEX u ON checkpoints (instance, seq, at) WHERE seq < 0",
    "a child of checkpoints": "CREATE TABLE c () INHERITS (checkpoints)",
    "a month that is not logged": "CREATE UNLOGGED TABLE m PARTITION OF access_log FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')",
    "a month that is divided": "CREATE TABLE m PARTITION OF access_log FOR VALUES FROM ('2001-01-01') TO ('2001-02-01') PARTITION BY LIST (seq)",
    "a constraint": "ALTER TABLE access_log ADD CONSTRAINT c CHECK (db_user <> 'x') NOT VALID",
    "code in a default": "CREATE FUNCTION d() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$; ALTER TABLE access_log ALTER db_user SET DEFAULT secretproxy.d()",
    "code in an index": "CREATE FUNCTION d(t text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT t $$; CREATE INDEX i ON access_log (secretproxy.d(db_user))",
    "a column more": "ALTER TABLE access_log ADD COLUMN c int",
    "a column of another type": "ALTER TABLE checkpoints ALTER COLUMN kind TYPE varchar",
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_hides_rows_is_named(site: Site, copy: str, name: str) -> None:
    with psycopg.connect(site.postgres.dsn(database=copy), autocommit=True) as admin:
        admin.execute("SET search_path = secretproxy, public")
        admin.execute(HIDDEN[name])
        # And what the database says of itself is brought in line.
        admin.execute("SELECT secretproxy.record_facts()")
        auditor = asyncio.run(verify_as(site, copy, "postgres"))
    assert "altered" in {finding.kind for finding in auditor.findings}, auditor.findings


async def verify_as(site: Site, database: str, user: str) -> Report:
    key = load_public(public_file(site.directory / "sign.key"))
    return await verify_database(site.postgres.dsn(user, database), [], key, lambda done, total: None)


def test_rows_that_a_policy_hides_are_an_error_and_not_gone(site: Site, copy: str) -> None:
    """An auditor from whom a policy hides rows gets an error."""
    with psycopg.connect(site.postgres.dsn(database=copy), autocommit=True) as admin:
        admin.execute("ALTER TABLE secretproxy.access_log ENABLE ROW LEVEL SECURITY")
        admin.execute("CREATE POLICY p ON secretproxy.access_log FOR SELECT USING (db_user <> 'x')")
    with pytest.raises(
        ConfigError,
        match=r"row security .* hides rows .*\(.*row-level security policy.*42501\).*secretproxy.access_log DISABLE",
    ):
        asyncio.run(verify_as(site, copy, "auditor"))


def stranger(site: Site, database: str, at: str, *, rows: int = 3, instance: uuid.UUID | None = None) -> str:
    """Puts in a chain, sound in itself, of an instance that never was, put in by somebody who may insert."""
    name = str(instance or uuid.uuid4())
    with psycopg.connect(site.postgres.dsn("journal", database), autocommit=True) as sql:
        moment = sql.execute(f"SELECT {at}").fetchone()
        assert moment is not None
        lines = Lines(NameMask(200, (), b"k"), uuid.UUID(name))
        for number in range(rows):
            event = Event("call", Identity(uuid.uuid4(), "somebody"), number, "f()", "read", None, ("made up",))
            line = lines.add(event, round(moment[0].timestamp() * 1e6) + number, None)
            sql.execute(
                f"INSERT INTO secretproxy.access_log ({', '.join(STORED)}) VALUES ({', '.join(['%s'] * len(STORED))})",
                line.fields(),
            )
    return name


STRANGERS = {
    "of yesterday": "now() - interval '1 day'",
    "of last year": "now() - interval '1 year'",
    "of two minutes ago": "now() - interval '2 minutes'",
    "of tomorrow": "now() + interval '1 day'",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_chain_that_no_key_began_is_named(site: Site, copy: str, name: str) -> None:
    made = stranger(site, copy, STRANGERS[name])
    report = site.verify(copy)
    assert [(found.instance, found.kind) for found in report.findings] == [(made, "unsigned")]


def test_a_chain_of_this_moment_has_time_to_be_signed(site: Site, copy: str) -> None:
    stranger(site, copy, "now()")
    assert site.verify(copy).sound


def test_a_checkpoint_that_a_stranger_signs_vouches_for_nothing(site: Site, copy: str, tmp_path: Path) -> None:
    made = stranger(site, copy, "now() - interval '1 day'")
    signed = Signer(tmp_path / "another.key").sign(uuid.UUID(made), 0, chain.GENESIS)
    with psycopg.connect(site.postgres.dsn("journal", copy), autocommit=True) as sql:
        sql.execute(
            "INSERT INTO secretproxy.checkpoints (instance, seq, row_hash, at, signature, kind) VALUES (%s, %s, %s, %s, %s, %s)",
            (made, 0, signed.row_hash, signed.at, signed.signature, signed.kind),
        )
    assert {"unsigned", "checkpoint"} == {found.kind for found in site.verify(copy).findings}


@pytest.mark.parametrize("column", WORDS)
def test_a_word_that_nobody_writes_is_named(site: Site, copy: str, column: str) -> None:
    """A row that no view may show, of a chain or past them; the word itself is not repeated."""
    written = {"event": "direct", column: "s3cret"}
    with psycopg.connect(site.postgres.dsn("journal", copy), autocommit=True) as writer:
        statement = (
            f"INSERT INTO secretproxy.access_log ({', '.join(written)}) VALUES ({', '.join(['%s'] * len(written))})"
        )
        writer.execute(statement, list(written.values()))  # type: ignore[arg-type]
    alter(site, copy, f"UPDATE access_log SET {column} = 's3cret' WHERE instance = '{A}' AND seq = 20")
    findings = site.verify(copy).findings
    strange = [(found.instance, found.seq, found.text) for found in findings if found.kind == "strange"]
    text = f"a word that secretproxy does not write, in {column}"
    assert strange == [(str(A), 20, text), ("-", None, text)]
    assert "s3cret" not in str(findings)


def test_the_words_are_those_that_are_written() -> None:
    assert set(WORDS["event"]) == {*get_args(EventKind), "direct"}
    assert set(WORDS["outcome"]) == set(get_args(Outcome)) and set(WORDS["protocol"]) == set(get_args(Protocol))
    assert set(WORDS["operation"]) == set(get_args(Operation))


def test_direct_rows_are_said_to_be_worth_nothing(site: Site, copy: str) -> None:
    with psycopg.connect(site.postgres.dsn(database=copy), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("UPDATE secretproxy.access_log SET function = 'other' WHERE event = 'direct'")
    key = str(public_file(site.directory / "sign.key"))
    done = run("verify", "--dsn", site.postgres.dsn("auditor", copy), "--public-key", key)
    assert done.returncode == 0 and "nothing vouches for direct calls" in done.stdout
