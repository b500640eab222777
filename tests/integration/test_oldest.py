"""Checks the oldest Python that is promised: every module is there, the checks of the command line run, and Ctrl-C ends
it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.conftest import Backend
from tests.support.oldest import OLDEST, ROOT, oldest_python

EVERYTHING = """
import importlib, pkgutil, sys, secretproxy
for module in pkgutil.walk_packages(secretproxy.__path__, "secretproxy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sum(name.startswith("secretproxy.") for name in sys.modules))
"""


@pytest.fixture(scope="module")
def python() -> str:
    return oldest_python()


def run(python: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    # Its own compiled modules, if there are any, are those of another Python.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SECRETPROXY_"))}
    environment |= {"PYTHONPATH": str(ROOT / "src"), **more}
    return subprocess.run([python, *words], capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_every_module_can_be_imported_and_says_nothing(python: str) -> None:
    done = run(python, "-W", "error::SyntaxWarning", "-c", EVERYTHING)
    assert done.returncode == 0, done.stderr
    sources = [path for path in (ROOT / "src" / "secretproxy").rglob("*.py") if path.name != "__main__.py"]
    assert int(done.stdout) == len(sources) - 1  # less the package itself


def test_commands_run(python: str, postgres: Backend, tmp_path: Path) -> None:
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[backend]\nhosts = ["{postgres.address}"]\n[audit]\ndsn = "{postgres.dsn("journal")}"\n'
        f'review_dsn = "{postgres.dsn("auditor")}"\n[testimony]\nkey_file = "{postgres.key_file}"\n'
    )
    assert f"Python {OLDEST}." in run(python, "-m", "secretproxy", "--version").stdout
    for words in (("check",), ("audit", "list", "--limit", "1", "--json"), ("audit", "stats", "--json")):
        done = run(python, "-m", "secretproxy", *words, SECRETPROXY_CONFIG=str(config))
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (words, done.stdout, done.stderr)
