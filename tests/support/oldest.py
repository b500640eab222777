"""Finds the oldest Python that is promised: `make test` makes an environment of it, .oldest, where the machine has one
(scripts/oldest.sh)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROMISED = re.search(r'requires-python = ">=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
assert _PROMISED is not None
OLDEST = _PROMISED[1]
_IS_IT = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{OLDEST}')"


def oldest_python() -> str:
    """Gives the oldest Python that is promised, with the packages that the proxy needs. Skips the test if there is
    none."""
    found = (
        sys.executable
        if f"{sys.version_info[0]}.{sys.version_info[1]}" == OLDEST
        else str(ROOT / ".oldest" / "bin" / "python")
    )
    stands = os.access(found, os.X_OK) and (found == sys.executable or (ROOT / ".oldest" / ".stamp").exists())
    if not stands or subprocess.run([found, "-c", _IS_IT], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(
            f"no Python {OLDEST} with the packages of requirements/run.lock in .oldest: scripts/oldest.sh says why"
        )
    return found
