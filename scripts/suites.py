"""Runs test suites that others wrote for their drivers directly and through the proxy, and compares them failure by
failure.

    scripts/suites.py [asyncpg] [psycopg2] [pg8000] [sqlalchemy] [regress]

The suites come from their source distributions, of the versions that are installed; `regress` from Debian's source
package of the server's major version, where apt has a deb-src line. A suite that cannot be had is named and left out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.conftest import prepare
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import PrivateServer

Outcomes = dict[str, str]
LONGEST = 1800


class MissingError(Exception):
    """The suite cannot be had here."""


def source(package: str, directory: Path) -> Path:
    """Unpacks the source distribution of the installed version."""
    name = {"psycopg2": "psycopg2-binary"}.get(package, package)
    version = importlib.metadata.version(name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
         "--dest", str(directory), f"{package}=={version}"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    # pip also tries to read the metadata of what it has fetched, which needs the package's build system.
    archive = next(directory.glob(f"{package}-*.tar.gz"), None)
    if archive is None:
        raise MissingError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no source distribution")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    folder = next(path for path in directory.glob(f"{package}-*") if path.is_dir())
    # The installed package is meant, not the sources next to the tests.
    shutil.rmtree(folder / package, ignore_errors=True)
    return folder


def pytest(folder: Path, arguments: list[str], environment: Mapping[str, str], report: Path) -> Outcomes:
    """Runs a pytest suite; gives the outcome of each test."""
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--timeout", "120", "--maxfail", "10000",
         f"--junitxml={report}", *arguments],
        cwd=folder, env=dict(os.environ) | dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=LONGEST,
    )  # fmt: skip
    if not report.exists():
        raise MissingError("pytest gave no report")
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own child wrote it
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}::{case.get('name')}"] = bad[0] if bad else "passed"
    return found


def regress(folder: Path, environment: Mapping[str, str], out: Path, psql: Path) -> Outcomes:
    """PostgreSQL's own regression files, one after the other: what psql prints of each, as a digest."""
    for made in (out, out / "results"):
        # The server writes here too.
        made.mkdir()
        made.chmod(0o777)
    inputs = folder / "src/test/regress"
    order = re.findall(
        r"\S+", " ".join(re.findall(r"^test:(.*)$", (inputs / "parallel_schedule").read_text(), re.MULTILINE))
    )
    given = dict(os.environ) | dict(environment) | {
        "PGDATABASE": "suite", "PGTZ": "PST8PDT", "PGDATESTYLE": "Postgres, MDY", "PGOPTIONS": "-c intervalstyle=postgres_verbose",
        "PG_ABS_SRCDIR": str(inputs), "PG_ABS_BUILDDIR": str(out), "PG_LIBDIR": str(out), "PG_DLSUFFIX": ".so", "LC_ALL": "C",
    }  # fmt: skip
    found = {}
    for name in order:
        with (inputs / "sql" / f"{name}.sql").open() as file:
            done = subprocess.run(
                [psql, "-X", "-a", "-q"], stdin=file, capture_output=True, env=given, check=False, timeout=300
            )
        text = done.stdout + done.stderr
        (out / f"{name}.out").write_bytes(text)
        found[name] = hashlib.sha256(text.replace(str(out).encode(), b"")).hexdigest()[:12]
    return found


def regress_source(directory: Path, major: int) -> Path:
    done = subprocess.run(
        ["apt-get", "source", "-qq", f"postgresql-{major}"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    found = next((path for path in directory.glob(f"postgresql-{major}-*") if path.is_dir()), None)
    if found is None:
        raise MissingError(
            f"apt-get source postgresql-{major}: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
        )
    return found


def both_ways(play: Callable[[Mapping[str, str], Path], Outcomes], directory: Path) -> tuple[Outcomes, Outcomes]:
    """Runs with a new server for each way, so that nothing is left over from the other."""
    found = []
    for way in ("direct", "proxied"):
        place = directory / way
        place.mkdir()
        place.chmod(0o755)
        with PrivateServer(settings={"wal_level": "logical", "max_prepared_transactions": "10"}) as server:
            backend = prepare(server.host, server.port, place)
            with psycopg.connect(backend.dsn(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE suite TEMPLATE template0")
            with psycopg.connect(backend.dsn(database="suite"), autocommit=True) as connection:
                connection.execute(
                    "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2"
                )
            proxy = Proxy(place, backend.address, backend.dsn("journal"), backend.key_file).start()
            try:
                port = server.port if way == "direct" else proxy.port
                found.append(
                    play(
                        {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "suite"}, place
                    )
                )
            finally:
                proxy.stop()
    return found[0], found[1]


def suite(name: str, directory: Path) -> tuple[Outcomes, Outcomes]:
    if name == "regress":
        with PrivateServer() as server:
            major, psql = server.binaries.major, server.binaries.program("psql")
        folder = regress_source(directory, major)
        return both_ways(lambda environment, place: regress(folder, environment, place / "out", psql), directory)
    folder = source(name, directory)

    def play(environment: Mapping[str, str], place: Path) -> Outcomes:
        report, mode = place / "report.xml", ["-o", "asyncio_mode=strict"]
        port = environment["PGPORT"]
        if name == "asyncpg":
            return pytest(folder, [*mode, "tests", "--deselect", "tests/test__sourcecode.py"], environment, report)
        if name == "psycopg2":
            return pytest(folder, [*mode, "tests"], dict(environment) | {"PSYCOPG2_TESTDB": "suite"}, report)
        if name == "pg8000":
            return pytest(folder, [*mode, "test", "--ignore", "test/test_readme.py"], environment, report)
        dialect = ["test/dialect/postgresql", "test/dialect/test_suite.py", "test/engine/test_transaction.py"]
        uri = f"postgresql+psycopg://postgres@127.0.0.1:{port}/suite"
        return pytest(folder, [*mode, "--dburi", uri, *dialect], environment, report)

    return both_ways(play, directory)


def main() -> int:
    wanted = sys.argv[1:] or ["asyncpg", "psycopg2", "pg8000", "sqlalchemy", "regress"]
    different = 0
    print(f"{'suite':12} {'tests':>6} {'direct':>8} {'proxied':>8}  differences", flush=True)
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="secretproxy-suite-") as directory:
            Path(directory).chmod(0o755)
            try:
                direct, proxied = suite(name, Path(directory))
            except MissingError as error:
                print(f"{name:12} left out: {error}", flush=True)
                continue
        apart = sorted(test for test in direct.keys() | proxied.keys() if direct.get(test) != proxied.get(test))
        different += len(apart)
        passed = [
            sum(outcome not in ("failure", "error", "skipped") for outcome in found.values())
            for found in (direct, proxied)
        ]
        print(f"{name:12} {len(direct):6} {passed[0]:8} {passed[1]:8}  {len(apart)}", flush=True)
        for test in apart:
            print(f"    {test}: {direct.get(test)} directly, {proxied.get(test)} through the proxy", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
