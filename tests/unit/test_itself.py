"""Checks that a proxy knows its own address under every name of it, and no other server for its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from secretproxy.config import Host, ListenSettings
from secretproxy.proxy.backend.connect import Target
from secretproxy.proxy.backend.itself import Itself
from secretproxy.session.testimony import Keys


def own_address() -> str:
    """Gives an address of this machine that others reach it by, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


@pytest.mark.parametrize(
    ("listen", "address", "port", "here"),
    [
        ("127.0.0.1", "127.0.0.1", 6432, True),
        ("127.0.0.1", "::ffff:127.0.0.1", 6432, True),
        ("127.0.0.1", "0.0.0.0", 6432, True),
        ("localhost", "127.0.0.1", 6432, True),
        ("0.0.0.0", "127.0.0.1", 6432, True),
        ("0.0.0.0", "127.3.2.1", 6432, True),
        ("0.0.0.0", own_address(), 6432, True),
        ("::", "::1", 6432, True),
        ("::", "127.0.0.1", 6432, True),
        ("127.0.0.1", "127.0.0.1", 5432, False),
        ("127.0.0.1", "127.0.0.2", 6432, False),
        ("0.0.0.0", "::1", 6432, False),
        ("0.0.0.0", "192.0.2.7", 6432, False),
        ("::", "2001:db8::7", 6432, False),
        ("", "127.0.0.1", 6432, False),
    ],
)
def test_an_address_of_its_own(listen: str, address: str, port: int, here: bool) -> None:
    itself = Itself(ListenSettings(host=listen, port=6432))
    why = itself.why(Target(Host(host="db.example", port=port), address))
    assert (why is not None) == here
    assert why is None or ("backend.hosts" in why and f"db.example:{port}" in why)


def test_a_socket_of_its_own_by_any_path(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "run")
    itself = Itself(ListenSettings(host="", port=6432, unix_socket_dir=tmp_path / "run"))
    other = Target(Host(host=str(tmp_path / "other"), port=6432), "")
    assert itself.why(other) is None, "nobody listens there yet"
    (tmp_path / "run" / ".s.PGSQL.6432").touch()
    assert itself.why(other) is not None
    assert itself.why(Target(Host(host=str(tmp_path / "run"), port=5432), "")) is None


def test_a_mark_is_known_by_who_has_the_key_and_cannot_be_made_up() -> None:
    keys, others = Keys({1: bytes(32), 2: bytes(range(32))}), Keys({1: bytes(range(32)), 3: bytes(32)})
    mark = keys.mark(bytes(16))
    assert keys.knows(mark) and Keys({2: bytes(range(32))}).knows(mark) and not others.knows(mark)
    assert not any(
        keys.knows(wrong)
        for wrong in ("", "1", mark[:-1], mark + "0", mark.replace("1.2.", "1.1."), f"1.9.{'0' * 32}.{'0' * 64}")
    )
