"""Writes config.example.toml and docs/configuration.md from the settings model; --check says whether they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from secretproxy.config import example, reference

ROOT = Path(__file__).parent.parent
TARGETS = {ROOT / "config.example.toml": example, ROOT / "docs" / "configuration.md": reference}


def main() -> int:
    stale = [path for path, text in TARGETS.items() if not path.exists() or path.read_text(encoding="utf-8") != text()]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(TARGETS[path](), encoding="utf-8")
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the settings model says: run `make example`", file=sys.stderr)
    return 1 if stale else 0


sys.exit(main())
