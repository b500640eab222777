"""Runs atheris for a third of the time, if there is one for this Python."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import secretproxy
from tests.fuzz.test_machine import SECONDS

ROOT = Path(__file__).parents[2]


def test_nothing_breaks_under_atheris(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("no wheel of atheris for this Python and machine: hypothesis alone has looked")
    shutil.copytree(
        secretproxy.__path__[0], tmp_path / "src" / "secretproxy", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(32):
        moves = bytes((number * 31 + place * 7) % 256 for place in range(90))
        (corpus / f"moves{number}").write_bytes(b"\1" + moves)
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "tests/fuzz/atheris_target.py"), f"-max_total_time={max(5, int(SECONDS / 3))}", "-max_len=400",
            "-timeout=20", f"-artifact_prefix={tmp_path}/", "-print_final_stats=1", str(corpus),
        ],
        capture_output=True, text=True, timeout=SECONDS + 120, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'src'}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    runs = re.search(r"stat::number_of_executed_units: (\d+)", said)
    assert runs is not None and int(runs[1]) > 32, said[-2000:]
    print(f"atheris: {runs[1]} runs")
