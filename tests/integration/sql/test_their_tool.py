"""Checks the original modules' own way of being deployed, with the stock sqitch: before an installation and after it,
and the docs' transcript of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.integration.sql.conftest import Database
from tests.integration.sql.test_without_superuser import provided
from tests.support import original
from tests.support.transcript import checked

from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install, verify

SQITCH = shutil.which("sqitch")
pytestmark = pytest.mark.skipif(
    SQITCH is None, reason="the stock sqitch is not installed here (Debian: apt-get install sqitch libdbd-pg-perl)"
)
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with PrivateServer(find_postgres()) as server:
        yield Backend(server.host, server.port, tmp_path_factory.mktemp("provided") / "keys", server)


@pytest.fixture
def managed(cluster: Backend) -> Iterator[Database]:
    yield from provided(cluster)


@pytest.fixture
def project(managed: Database, tmp_path: Path) -> Path:
    with managed.connect() as sql:
        original.write_project(tmp_path, sql.info.server_version // 10000)
    return tmp_path


def sqitch(database: Database, project: Path, *words: str, user: str = "postgres") -> subprocess.CompletedProcess[str]:
    environment = {
        "HOME": str(project),
        "PATH": "/usr/bin:/bin",
        "SQITCH_FULLNAME": "tests",
        "SQITCH_EMAIL": "tests@example.invalid",
    }
    target = database.dsn(user).replace("postgresql://", "db:pg://")
    return subprocess.run(
        [SQITCH or "", *words, target], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("user", ["postgres", "deployer"])
def test_installed_first_and_the_original_later(managed: Database, project: Path, user: str) -> None:
    """Its deployment stops at the schema; written down without being run, it stands beside ours and is not run later
    either."""
    asyncio.run(install(managed.dsn(user), managed.backend.key_file, direct_calls="log"))
    stopped = sqitch(managed, project, "deploy", user=user)
    assert stopped.returncode != 0
    assert 'schema "secrets_schema" already exists' in stopped.stdout + stopped.stderr
    done = sqitch(managed, project, "deploy", "--log-only", user=user)
    assert done.returncode == 0, done.stdout + done.stderr
    again = sqitch(managed, project, "deploy", user=user)
    assert again.returncode in (0, 1)
    assert "Nothing to deploy" in again.stdout + again.stderr
    with managed.connect() as sql:
        assert sql.execute("SELECT encrypted_secrets.secrets_upsert(gen_random_uuid(), 'n', 'v')").fetchone() == (True,)
    assert asyncio.run(verify(managed.dsn(user), managed.backend.key_file)) == []
    assert asyncio.run(install(managed.dsn(user), managed.backend.key_file)) == []


def test_the_transcript_of_an_adoption(managed: Database, project: Path) -> None:
    (project / "secretproxy.toml").write_text('[testimony]\nkey_file = "testimony.keys"\n')
    backend = managed.backend
    environment = {
        "PGHOST": backend.host, "PGPORT": str(backend.port), "PGUSER": "deployer", "PGDATABASE": managed.name, "PSQLRC": "/dev/null",
        "SQITCH_FULLNAME": "deployer", "SQITCH_EMAIL": "deployer@example.invalid",
    }  # fmt: skip
    # A privilege that PostgreSQL has from 17 on, and where the server is.
    same = {"INSERT, MAINTAIN, SELECT": "INSERT, SELECT", f"{backend.host}:{backend.port}": "db.example:5432"}
    checked(DOCS / "adoption-transcript.md", project, environment, same)


def test_the_transcript_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_WRITE_TRANSCRIPTS", raising=False)
    document = tmp_path / "page.md"
    document.write_text("```console\n$ echo one\ntwo\n```\n")
    with pytest.raises(AssertionError):
        checked(document, tmp_path, {})


def test_what_is_told_of_a_schema_that_exists_is_its_sqlstate(managed: Database) -> None:
    asyncio.run(install(managed.dsn(), managed.backend.key_file))
    with managed.connect() as sql, pytest.raises(psycopg.errors.DuplicateSchema) as refused:
        sql.execute("CREATE SCHEMA secrets_schema")
    assert refused.value.sqlstate == "42P06"
