"""Writes config.example.toml from the settings model, or with --check says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from secretproxy.config import example

TARGET = Path(__file__).parent.parent / "config.example.toml"


def main() -> int:
    if "--check" not in sys.argv:
        TARGET.write_text(example(), encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") != example():
        print("config.example.toml is not what the settings model says: run `make example`", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
