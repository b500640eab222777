"""Checks that `check` finds what would keep the proxy from listening and writing: directories, addresses, ports, each
with its setting."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Backend
from tests.support.command import run
from tests.support.proxy import Proxy, short

from secretproxy.config import AuditSettings, ListenSettings, Settings
from secretproxy.proxy.listeners import preflight


def faults(backend: Backend, directory: Path, sections: str) -> dict[str, str]:
    """Gives what `check` says is wrong; `sections` stand before the section audit."""
    config = directory / "places.toml"
    audit = "" if "[audit]" in sections else "[audit]\n"
    config.write_text(
        f'[backend]\nhosts = ["{backend.address}"]\n[testimony]\nkey_file = "{backend.key_file}"\n{sections}\n{audit}'
        f'dsn = "{backend.dsn("journal")}"\n'
    )
    said = run("check", "--json", "--config", str(config))
    found = {one["check"]: one["fault"] for one in json.loads(said.out) if one["fault"] is not None}
    assert said.status == (1 if found else 0)
    return found


@pytest.fixture
def taken() -> Iterator[int]:
    """Gives a port on which something listens that is not a proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_each() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=close_each, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_what_is_well_is_not_told_of(postgres: Backend, tmp_path: Path) -> None:
    sections = f'[listen]\nport = 0\nunix_socket_dir = "{short(tmp_path)}"\n[audit]\non_outage = "spool"\nspool_dir = "{tmp_path}/made/later"'
    assert faults(postgres, tmp_path, sections) == {}


def test_addresses_and_ports(postgres: Backend, tmp_path: Path, taken: int) -> None:
    for section in ("listen", "health"):
        setting = f"{section}.host, {section}.port"
        for host, port, words in [
            # TEST-NET-1: no host has it.
            ("192.0.2.1", 6432, "must be an address of this host"),
            ("nowhere.invalid", 6432, "does not resolve"),
            ("127.0.0.1", taken, "already in use"),
            ("0.0.0.0", taken, "already in use"),
            # PostgreSQL answers as the proxy does, but for what it tells of its source.
            ("127.0.0.1", postgres.port, "already in use"),
        ]:
            found = faults(postgres, tmp_path, f'[{section}]\nhost = "{host}"\nport = {port}\n')
            assert words in found.pop(setting), (section, host)
            if (section, port) == ("listen", postgres.port):
                # The backend is at the address where the proxy would listen.
                assert "secretproxy's own address" in found.pop("backend.hosts")
            # Where the proxy is to listen, the log cannot be.
            assert set(found) <= {"listen.host, listen.port", "audit.dsn"}


def test_the_proxy_that_runs_is_no_fault(postgres: Backend, proxy: Proxy, tmp_path: Path) -> None:
    sections = f"[health]\nport = {proxy.health_port}\n[listen]\nport = {proxy.port}"
    assert faults(postgres, tmp_path, sections) == {}


def test_directories(postgres: Backend, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    long = tmp_path / ("d" * 100)
    long.mkdir()
    for path, words in [
        (tmp_path / "missing", "no such directory"),
        (tmp_path / "file", "it is no directory"),
        (long, "at most 107 bytes"),
    ]:
        found = faults(postgres, tmp_path, f'[listen]\nport = 0\nunix_socket_dir = "{path}"')
        assert words in found["listen.unix_socket_dir"] and str(path) in found["listen.unix_socket_dir"]
    spool = f'[listen]\nport = 0\n[audit]\non_outage = "spool"\nspool_dir = "{tmp_path}/file/spool"'
    assert "it is no directory" in faults(postgres, tmp_path, spool)["audit.spool_dir"]
    signed = f'[listen]\nport = 0\n[audit]\ncheckpoint_key_file = "{tmp_path}/no/key"\ncheckpoint_file = "{tmp_path}/nor/file"'
    assert set(faults(postgres, tmp_path, signed)) == {"audit.checkpoint_file", "audit.checkpoint_key_file"}


def as_nobody(settings: Settings) -> str:
    """Gives what a user who is nobody finds of the settings' places, or the error that ended the look."""
    # What it imports is imported by whoever may read the interpreter's own files.
    list(preflight.places(settings))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Root may write everywhere, nobody may not.
        try:
            os.setuid(65534)
            found = json.dumps(dict(preflight.places(settings)))
        except BaseException as error:
            found = repr(error)
        os.write(writing, found.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        found = told.read()
    os.waitpid(child, 0)
    return found


@pytest.fixture
def reached() -> Iterator[Path]:
    """Gives a directory that everybody may reach, whatever the test run's own directory allows."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
def test_a_directory_that_is_somebody_elses(reached: Path) -> None:
    settings = Settings(listen=ListenSettings(port=0, unix_socket_dir=reached))  # type: ignore[call-arg]
    assert f"{reached}: this user may not write there" in as_nobody(settings)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
def test_places_behind_a_directory_that_is_closed(reached: Path) -> None:
    closed = reached / "closed"
    inside = closed / "inside"
    inside.mkdir(parents=True)
    closed.chmod(0o700)
    settings = Settings(
        listen=ListenSettings(port=0, unix_socket_dir=inside),  # type: ignore[call-arg]
        audit=AuditSettings(  # type: ignore[call-arg]
            on_outage="spool",
            spool_dir=inside / "spool",
            checkpoint_file=inside / "points",
            checkpoint_key_file=inside / "key",
        ),
    )
    found = as_nobody(settings)
    for setting in ("listen.unix_socket_dir", "audit.checkpoint_file", "audit.checkpoint_key_file"):
        assert f'"{setting}": "{inside}: this user may not look into a directory above it' in found, found
    assert f'"audit.spool_dir": "{closed}: this user may not write there' in found, found
