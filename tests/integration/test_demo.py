"""Checks `secretproxy demo`: the tour, and that it cleans up however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from tests.support.console import Browser

from secretproxy.demo.postgres import free_port


def children_of(directory: Path) -> list[str]:
    """Lists processes that have the directory in their command line."""
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
    accesses = re.findall(r"\d +(attempt|access|call) +127", table)
    assert len(accesses) == 6 and accesses.count("call") == 1
    assert "sk_demo_" not in table
    assert "\x1b[" not in output
    assert list(temporary.iterdir()) == []
    assert children_of(temporary) == []


def the_console_shows_it(said: str) -> None:
    """The address and the login that were printed work; the pages are full, and what was made up says so."""
    found = re.search(r"http://127\.0\.0\.1:(\d+)/  as (\w+), password (\w+)", said)
    assert found is not None, said
    browser = Browser(int(found[1]))
    assert browser.sign_in(found[2], found[3]).status == 303
    text = browser.get("/findings").text
    assert text.count("demo_reporting") >= 4 and "the thirty days before" in text
    for path in ("/", "/accesses?user=demo_web", "/secret?name=stripe_key", "/reviews", "/who/user?name=demo_nightly"):
        assert browser.get(path).status == 200
    rows = re.findall(r'<tr class="access .*?</tr>', browser.get("/accesses?user=demo_web").text, re.DOTALL)
    assert len(rows) == 50 and all('title="simulated: web"' in row for row in rows)
    assert "simulated" not in browser.get("/accesses?user=app").text
    assert browser.send("POST", "/integrity/verify", {"csrf": browser.csrf()}).status == 303
    while 'http-equiv="refresh"' in browser.get("/integrity").text:
        time.sleep(0.1)
    report = browser.get("/integrity/report").text
    assert '"sound": true' in report and '"signatures_checked": true' in report and '"steps_back": 0' in report


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
    if number == signal.SIGTERM:
        the_console_shows_it("".join(said))
    process.send_signal(number)
    process.communicate(timeout=60)
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
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while children_of(temporary):
        assert time.monotonic() < deadline, children_of(temporary)
        time.sleep(0.05)


def test_a_port_in_use_is_one_clear_line(temporary: Path, proxy: object) -> None:
    port = proxy.port  # type: ignore[attr-defined]
    process = demo(temporary, "--once", "--port", str(port))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output.strip() == f"secretproxy: port {port} is in use: choose another one with --port"
