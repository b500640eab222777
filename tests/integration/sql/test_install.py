"""install, verify, revert: again, two at once, over damage, after a failure, and by the stock sqitch."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.integration.sql.conftest import Database

import secretproxy.sql
from secretproxy.install import InstallError, install, revert, verify
from secretproxy.install.project import changes

PROJECT = Path(secretproxy.sql.__file__).parent
OBJECTS = """
SELECT 'function' AS kind, p.oid::regprocedure::text FROM pg_proc p WHERE p.oid >= 16384 AND p.pronamespace <> 'public'::regnamespace
UNION ALL SELECT 'relation', c.oid::regclass::text FROM pg_class c WHERE c.oid >= 16384 AND c.relnamespace <> 'pg_toast'::regnamespace
UNION ALL SELECT 'schema', n.nspname::text FROM pg_namespace n WHERE n.oid >= 16384 ORDER BY 1, 2
"""


def objects(database: Database) -> list[tuple[str, str]]:
    with database.connect() as sql:
        return sql.execute(OBJECTS).fetchall()


def findings(database: Database) -> list[str]:
    return asyncio.run(verify(database.dsn(), database.backend.key_file))


def test_again_changes_nothing(fresh: Database) -> None:
    before = objects(fresh)
    assert fresh.install() == []
    assert objects(fresh) == before
    assert findings(fresh) == []


def test_two_installers_at_once(empty: Database) -> None:
    async def both() -> list[list[str]]:
        return await asyncio.gather(*(install(empty.dsn(), empty.backend.key_file) for _ in range(2)))

    deployed = asyncio.run(both())
    assert sorted(map(len, deployed)) == [0, len(changes())]
    assert findings(empty) == []


def test_revert_leaves_nothing_of_an_empty_installation(empty: Database) -> None:
    empty.install()
    asyncio.run(revert(empty.dsn()))
    assert objects(empty) == []
    assert len(empty.install()) == len(changes())
    assert findings(empty) == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            "CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_name text) RETURNS void "
            "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN END'",
            "secrets_delete(uuid,text)",
        ),
        ("ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) OWNER TO postgres", "secrets_getter(uuid,text,text)"),
        ("ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) STABLE", "encrypted_secrets"),
        ("ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) SECURITY INVOKER", "encrypted_secrets"),
        ("DROP FUNCTION encrypted_secrets.secrets_delete(uuid, text[])", "encrypted_secrets"),
        ("ALTER TABLE secrets_schema.secrets_table DISABLE TRIGGER hash_secrets_insert", "secrets_table"),
        ("GRANT SELECT ON secrets_schema.secrets_table TO app_user", "secrets_table"),
        ("UPDATE secretproxy.context SET testimony_version = 9", "context"),
        ("UPDATE secretproxy.testimony_key SET retired_at = now() WHERE version < 1", None),
    ],
    ids=lambda value: None if value is None else value[:48],
)
def test_verify_names_what_differs(fresh: Database, damage: str, named: str | None) -> None:
    with fresh.connect() as sql:
        sql.execute(damage)
    told = findings(fresh)
    assert bool(told) is (named is not None), told
    if named is not None:
        assert any(named in line for line in told), told


def test_a_failed_change_leaves_nothing_behind(empty: Database) -> None:
    with empty.connect() as sql:
        sql.execute("CREATE SCHEMA secrets_schema; CREATE VIEW secrets_schema.secrets_table AS SELECT 1 AS id")
    with pytest.raises(InstallError, match="secrets_table"):
        empty.install()
    with empty.connect() as sql:
        left = {row[0] for row in sql.execute("SELECT change FROM secretproxy.changes").fetchall()}
        assert "secrets_table" not in left
        assert sql.execute("SELECT to_regclass('secretproxy.replaced_password')").fetchone() == (None,)
        sql.execute("DROP VIEW secrets_schema.secrets_table")
    empty.install()
    assert findings(empty) == []


def test_the_stock_sqitch_runs_the_same_folder(empty: Database, tmp_path: Path) -> None:
    sqitch = shutil.which("sqitch")
    if sqitch is None:
        pytest.skip("the stock sqitch is not installed here (Debian: apt-get install sqitch libdbd-pg-perl postgresql-client)")
    target = empty.dsn().replace("postgresql://", "db:pg://")
    environment = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "SQITCH_FULLNAME": "tests",
        "SQITCH_EMAIL": "tests@example.invalid",
    }
    for words in (["deploy", "--verify"], ["verify"], ["revert", "-y"]):
        done = subprocess.run([sqitch, *words, target], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if words == ["verify"]:
            assert [line for line in findings(empty) if "key_file" not in line] == []
    assert [name for name in objects(empty) if "sqitch" not in name[1]] == []
