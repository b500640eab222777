"""Tells files from what only has the name of one. Imports the standard library alone."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def check_readable(path: Path) -> None:
    """Raises OSError for what cannot be read to its end: a pipe that nobody writes would stop the whole process."""
    mode = path.stat().st_mode
    # Opening a directory fails by itself.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
