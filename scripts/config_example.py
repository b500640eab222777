"""Writes config.example.toml and docs/configuration.md from the settings model, and the log's columns into
docs/reviewing-the-log.md.

--check says whether they are up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from secretproxy.audit import columns
from secretproxy.config import example, reference

ROOT = Path(__file__).parent.parent
REVIEWING = ROOT / "docs" / "reviewing-the-log.md"


def reviewing() -> str:
    """Gives the page on the log with its table of columns made again."""
    text = REVIEWING.read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- columns: ")
    comment, _, rest = rest.partition("\n")
    _, end, after = rest.partition("<!-- end of columns -->")
    if not begin or not end:
        sys.exit(f"{REVIEWING}: the comments that enclose the table of columns are missing")
    return f"{before}{begin}{comment}\n\n{columns.reference()}\n{end}{after}"


TARGETS = {ROOT / "config.example.toml": example, ROOT / "docs" / "configuration.md": reference, REVIEWING: reviewing}


def main() -> int:
    stale = [path for path, text in TARGETS.items() if not path.exists() or path.read_text(encoding="utf-8") != text()]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(TARGETS[path](), encoding="utf-8")
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the source says: run `make example`", file=sys.stderr)
    return 1 if stale else 0


sys.exit(main())
