"""Checks audit.on_outage = "spool": calls go on while the log is down, and each is in the log once when it is back,
whoever was killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Line, Lines
from secretproxy.audit.spool import KIND, Spool, SpoolDamagedError, SpoolFullError, left_behind, read, strange
from secretproxy.audit.verify import verify_database
from secretproxy.demo.postgres import PrivateServer
from secretproxy.session.events import Event, Identity

OWNER = "0c1c5d2e-6f0b-4c0d-8f57-3d1f0c9b2e77"


@dataclass
class Apart:
    backend: Backend
    server: PrivateServer
    dsn: str
    proxy: Proxy
    spool: Path

    def names(self) -> list[str]:
        with psycopg.connect(self.dsn) as sql:
            rows = sql.execute(
                "SELECT secret_names[1] FROM secretproxy.access_log WHERE event IN ('attempt', 'access', 'call') AND owner_id = %s",
                (OWNER,),
            )
            return sorted(row[0] for row in rows.fetchall())

    def sound(self) -> None:
        report = asyncio.run(verify_database(self.dsn, [], None, lambda done, total: None))
        assert report.findings == []

    def rows_wait(self) -> int:
        return sum(sum(1 for _ in read(path.open("rb"))) for path in self.spool.glob("*.spool"))


@pytest.fixture
def apart(postgres: Backend, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Apart]:
    (tmp_path / "log").mkdir()
    (tmp_path / "proxy").mkdir()
    spool = tmp_path / "spool"
    with PrivateServer() as server:
        logged = prepare(server.host, server.port, tmp_path / "log")
        proxy = Proxy(tmp_path / "proxy", postgres.address, logged.dsn("journal"), postgres.key_file)
        text = proxy.config.read_text().replace(
            "timeout = 2.0\n",
            f'timeout = 1.0\non_outage = "spool"\nspool_dir = "{spool}"\nspool_max_bytes = {getattr(request, "param", 1 << 24)}\n',
            1,
        )
        proxy.config.write_text(text)
        proxy.start()
        proxy.wait_for_text("access log can be written")
        yield Apart(postgres, server, logged.dsn(), proxy, spool)
        proxy.stop()


def call(sql: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, name))


def test_calls_go_on_and_are_in_the_log_once(apart: Apart) -> None:
    with psycopg.connect(apart.backend.dsn(), autocommit=True) as admin:
        admin.execute(
            f"CREATE OR REPLACE FUNCTION public.spooled(n text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN encrypted_secrets.secrets_getter('{OWNER}', n); END $$"
        )
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as sql:
        call(sql, "before")
        apart.server.kill()
        for number in range(20):
            call(sql, f"during {number:02}")
        sql.execute("SELECT public.spooled('during hidden')")
        assert apart.rows_wait() >= 21
        listed = secretproxy(["audit", "list", "--json", "--spool", str(apart.spool)])
        assert {"during 00", "during hidden"} <= {
            (json.loads(line)["secret_names"] or [""])[0] for line in listed.stdout.splitlines()
        }
        apart.server.start()
        apart.proxy.wait_for_text("spool replayed")
        call(sql, "after")
    assert apart.proxy.halt() == 0
    assert apart.names() == sorted(["before", *(f"during {n:02}" for n in range(20)), "during hidden", "after"])
    assert list(apart.spool.glob("*")) == []
    apart.sound()


def test_what_a_killed_proxy_left_is_replayed_by_the_next(apart: Apart) -> None:
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as sql:
        call(sql, "before")
        apart.server.kill()
        for number in range(10):
            call(sql, f"during {number}")
    apart.proxy.kill()
    assert apart.rows_wait() >= 10
    apart.proxy.start()
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as sql:
        call(sql, "during the next")
    apart.server.start()
    apart.proxy.wait_for_text("spool of a process that is gone replayed")
    apart.proxy.wait_for_text("spool replayed")
    assert apart.proxy.halt() == 0
    assert apart.names() == sorted(["before", *(f"during {n}" for n in range(10)), "during the next"])
    assert list(apart.spool.glob("*")) == []
    apart.sound()


def test_a_proxy_that_ends_during_an_outage_leaves_everything(apart: Apart) -> None:
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as sql:
        apart.server.kill()
        call(sql, "left")
    assert apart.proxy.halt() == 0
    apart.server.start()
    apart.proxy.start()
    apart.proxy.wait_for_text("spool of a process that is gone replayed")
    assert apart.proxy.halt() == 0
    assert apart.names() == ["left"]
    with psycopg.connect(apart.dsn) as log:
        assert log.execute(
            "SELECT outcome FROM secretproxy.secret_access WHERE owner_id = %s", (OWNER,)
        ).fetchall() == [("ok",)]
    apart.sound()


@pytest.mark.parametrize("apart", [65536], indirect=True)
def test_a_full_spool_refuses(apart: Apart) -> None:
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as sql:
        apart.server.kill()
        done = 0
        with pytest.raises(psycopg.errors.IoError):  # noqa: PT012
            for number in range(1000):
                call(sql, f"many {number:04}")
                done += 1
        assert 10 < done < 1000
        assert sql.execute("SELECT 1").fetchone() == (1,)
        assert "audit.spool_max_bytes" in apart.proxy.text()
        apart.server.start()
        apart.proxy.wait_for_text("access log can be written", 2)
        call(sql, "after")
    assert apart.proxy.halt() == 0
    names = apart.names()
    assert {f"many {number:04}" for number in range(done)} <= set(names) and "after" in names
    assert len(names) == len(set(names))
    apart.sound()


def test_kills_of_both_sides_at_random(apart: Apart) -> None:
    """Sessions call all the time, and the log and the proxy are killed six times: what was answered is in the log,
    once."""
    answered: set[str] = set()
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(f"{apart.proxy.dsn()}?connect_timeout=5", autocommit=True) as sql:
                    while not stop.is_set():
                        name = uuid.uuid4().hex
                        call(sql, name)
                        answered.add(name)
            except psycopg.Error:
                stop.wait(0.05)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in clients:
        thread.start()
    for round_ in range(6):
        count = len(answered)
        while len(answered) < count + 15:
            assert not stop.wait(0.02)
        if round_ % 2:
            apart.proxy.kill()
            apart.proxy.start()
        elif apart.server.running:
            apart.server.kill()
        else:
            apart.server.start()
    stop.set()
    for thread in clients:
        thread.join(60)
    if not apart.server.running:
        apart.server.start()
    assert apart.proxy.halt() == 0
    apart.proxy.start()  # takes over what the last one left
    while apart.rows_wait():
        stop.wait(0.05)
        assert apart.proxy.running
    assert apart.proxy.halt() == 0
    names = apart.names()
    assert answered <= set(names)
    assert len(names) == len(set(names))
    apart.sound()


def made_row(instance: uuid.UUID, seq: int) -> Line:
    lines = Lines(NameMask(200, (), b"k"), instance)
    lines.seq = seq - 1
    return lines.add(Event("call", Identity(uuid.uuid4(), "app\\_user\t")), 1, None)


def rows_of(path: Path) -> list[Line]:
    with path.open("rb") as file:
        return list(read(file))


def test_a_torn_record_is_not_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    row = made_row(uuid.uuid4(), 1)
    spool = Spool(tmp_path, uuid.uuid4(), 1 << 20)
    spool.write([row, row])
    ((path, size),) = spool.seal()
    content = path.read_bytes()
    assert len(content) == size
    torn = tmp_path / "torn"
    for cut in range(len(content)):
        torn.write_bytes(content[:cut])
        assert rows_of(torn) == [row] * max(0, (cut - len(KIND)) // ((len(content) - len(KIND)) // 2))
    for damaged in (b"something else entirely", content + bytes(64), content[:-1] + b"?"):
        torn.write_bytes(damaged)
        with pytest.raises(SpoolDamagedError):
            rows_of(torn)


def test_a_damaged_length_is_no_torn_end(tmp_path: Path) -> None:
    """A length that reaches behind the end of the file hides what stands behind it."""
    rows = [made_row(uuid.uuid4(), number) for number in range(1, 6)]
    spool = Spool(tmp_path, uuid.uuid4(), 1 << 20)
    spool.write(rows)
    ((path, size),) = spool.seal()
    content = path.read_bytes()
    starts = [len(KIND)]
    for row in rows:
        starts.append(starts[-1] + 8 + len(row.stored()))
    damaged = tmp_path / "damaged"
    for number in range(4):
        for length in (size, 1 << 30, 0xFFFFFFFF):
            damaged.write_bytes(content[: starts[number]] + length.to_bytes(4, "big") + content[starts[number] + 4 :])
            with damaged.open("rb") as file, pytest.raises(SpoolDamagedError):
                list(read(file))
    # Of the last one nobody can tell, unless it is known that all of it was durable.
    damaged.write_bytes(content[: starts[4]] + size.to_bytes(4, "big") + content[starts[4] + 4 :])
    assert rows_of(damaged) == rows[:4]
    for content_ in (damaged.read_bytes(), content[:-1], content[: starts[4]], content[: starts[4] + 3], b"", KIND[:3]):
        damaged.write_bytes(content_)
        with damaged.open("rb") as file, pytest.raises(SpoolDamagedError):
            list(read(file, size))


@pytest.mark.parametrize("payload", [b"x", b"no\trow\t\\x\t\\x", b"not-a-uuid\t1\ta\t\\x00\t\\x00"])
def test_a_record_that_is_no_row_is_damage(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "odd.spool"
    path.write_bytes(KIND + len(payload).to_bytes(4, "big") + zlib.crc32(payload).to_bytes(4, "big") + payload)
    with pytest.raises(SpoolDamagedError):
        rows_of(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_what_is_not_ones_own_is_not_replayed(tmp_path: Path) -> None:
    """A file that is not ours is refused: a chain of it would be signed by the proxy."""
    for name in ("own.spool", "outside", "foreign.spool"):
        (tmp_path / name).write_bytes(KIND)
    (tmp_path / "link.spool").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "pipe.spool")
    os.chown(tmp_path / "foreign.spool", 65534, 65534)
    assert [path.name for path in strange(tmp_path)] == ["foreign.spool", "link.spool", "pipe.spool"]
    assert [path.name for found in left_behind(tmp_path) for path, _ in found] == ["own.spool"]


def test_a_link_in_the_spool_is_not_written_through(tmp_path: Path) -> None:
    instance, victim = uuid.uuid4(), tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / f"{instance}.00000000.new").symlink_to(victim)
    Spool(tmp_path, instance, 1 << 20).write([made_row(instance, 1)])
    assert victim.read_text() == "kept"


def test_a_damaged_segment_of_its_own_does_not_close_the_log(apart: Apart) -> None:
    """A verification names what it held as a gap; the rest goes on."""
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as sql:
        call(sql, "before")
        for round_, damage in enumerate(("length", "gone"), 1):
            apart.server.kill()
            for number in range(3):
                call(sql, f"{damage} {number}")
            (path,) = apart.spool.glob("*.spool")
            if damage == "length":
                content = path.read_bytes()
                start, wanted = len(KIND), content.index(b"length 1")
                while (end := start + 8 + int.from_bytes(content[start : start + 4], "big")) < wanted:
                    start = end
                path.write_bytes(content[:start] + b"\x7f" + content[start + 1 :])
            else:
                path.unlink()
            apart.server.start()
            apart.proxy.wait_for_text("spool replayed", round_)
            call(sql, f"after {damage}")
    assert apart.proxy.halt() == 0
    assert apart.names() == ["after gone", "after length", "before", "length 0"]
    report = asyncio.run(verify_database(apart.dsn, [], None, lambda done, total: None))
    assert report.findings and len(list(apart.spool.glob("*.damaged"))) == 1


def test_segments_are_sealed_dropped_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = uuid.uuid4()
    spool = Spool(tmp_path, instance, 4096)
    written = 0
    with pytest.raises(SpoolFullError):  # noqa: PT012 - the write that fails is not known
        while True:
            spool.write([made_row(instance, written + 1)])
            written += 1
    sealed = spool.seal()
    assert [row.seq for path, _ in sealed for row in rows_of(path)] == list(range(1, written + 1))
    assert list(left_behind(tmp_path)) == []  # its writer lives
    for path, _ in sealed:
        spool.drop(path)
    assert list(tmp_path.iterdir()) == []
    # A disk that fails to sync: what was durable stays, what was not is tried again elsewhere.
    spool.write([made_row(instance, 1)])
    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError):
        spool.write([made_row(instance, 2)])
    monkeypatch.undo()
    spool.write([made_row(instance, 2)])
    sealed = spool.seal()
    assert len(sealed) == 2 and [row.seq for path, _ in sealed for row in rows_of(path)] == [1, 2]


def fails(descriptor: int) -> None:
    raise OSError(5, "no")
