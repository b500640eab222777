"""`secretproxy demo`: the tour, and that it cleans up however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from secretproxy.demo.postgres import free_port


def children_of(directory: Path) -> list[str]:
    """Processes that have the directory in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    # The server runs as another user where we are root, who must be able to enter.
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    return tmp_path


def demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "secretproxy", "demo", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip


def test_once_takes_the_tour_and_leaves_nothing(temporary: Path) -> None:
    process = demo(temporary, "--once", "--port", str(free_port()))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "postgresql://app@127.0.0.1" in output
    assert "a default" in output and "t|f" in output
    table = output[output.index("What the access log says") :]
    # Two verifies of one secret in one statement are one attempt, with two calls.
    assert table.count("attempt") == 5 and table.count("call ") == 1
    assert "sk_demo_" not in table
    assert "\x1b[" not in output
    assert list(temporary.iterdir()) == []
    assert children_of(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stays_up_until_a_signal_and_cleans_up(temporary: Path, number: int) -> None:
    port = free_port()
    process = demo(temporary, "--port", str(port))
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "until Ctrl-C" in line:
            break
    else:
        pytest.fail(f"the demo ended by itself with {process.wait()}:\n{''.join(said)}")
    with psycopg.connect(f"postgresql://app@127.0.0.1:{port}/postgres") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert list(temporary.iterdir()) == []
    assert children_of(temporary) == []


def test_killed_it_takes_its_children_with_it(temporary: Path) -> None:
    process = demo(temporary, "--port", str(free_port()))
    assert process.stdout is not None
    for line in process.stdout:
        if "until Ctrl-C" in line:
            break
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while children_of(temporary):
        assert time.monotonic() < deadline, children_of(temporary)
        time.sleep(0.05)


def test_a_port_in_use_is_one_clear_line(temporary: Path, proxy: object) -> None:
    port = proxy.port  # type: ignore[attr-defined]
    process = demo(temporary, "--once", "--port", str(port))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.strip() == f"secretproxy: port {port} is in use: choose another one with --port"
