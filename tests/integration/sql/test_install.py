"""Checks install, verify, revert: again, two at once, over damage, after a failure, and by the stock sqitch."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from tests.integration.sql.conftest import Database

import secretproxy.sql
from secretproxy.install import InstallError, install, revert, verify
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.install.keys import activate_testimony, stage_testimony
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


@pytest.mark.parametrize("form", ["directory", "empty", "link"])
def test_a_key_file_that_cannot_be_used_is_told_before_anything_is_done(
    empty: Database, tmp_path: Path, form: str
) -> None:
    """Functions without a proxy's key would refuse every call, or log it as direct."""
    path = tmp_path / "keys"
    if form == "directory":
        path.mkdir()
    elif form == "empty":
        path.touch(0o600)
    else:
        path.symlink_to(tmp_path / "gone")
    before = objects(empty)
    with pytest.raises(KeyFileError, match="key_file"):
        asyncio.run(install(empty.dsn(), path))
    assert objects(empty) == before


def test_revert_leaves_nothing_of_an_empty_installation(empty: Database) -> None:
    empty.install()
    asyncio.run(revert(empty.dsn()))
    assert objects(empty) == []
    assert len(empty.install()) == len(changes())
    assert findings(empty) == []


GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"
# Each alters one thing, and the finding that names it.
DAMAGE = {
    "CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_delete(secrets_owned_field uuid, secret_name text) RETURNS void "
    "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN END'":
        "function encrypted_secrets.secrets_delete(uuid,text): its body was replaced",
    "CREATE OR REPLACE FUNCTION secretproxy.bcrypt(password text, salt text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN salt":
        "function secretproxy.bcrypt(text,text): its body was changed",
    f"ALTER FUNCTION {GETTER} OWNER TO postgres": f"function {GETTER}: owner is postgres, was secretproxy_api",
    f"ALTER FUNCTION {GETTER} STABLE": f"function {GETTER}: volatility is s, was v",
    f"ALTER FUNCTION {GETTER} SECURITY INVOKER": f"function {GETTER}: security definer is false, was true",
    f"ALTER FUNCTION {GETTER} RESET search_path": f'function {GETTER}: settings is None, was {{"search_path=pg_catalog, pg_temp"}}',
    f"ALTER FUNCTION {GETTER} PARALLEL SAFE": f"function {GETTER}: parallel is s, was u",
    f"GRANT EXECUTE ON FUNCTION {GETTER} TO PUBLIC": f"function {GETTER}: has a grant execute to PUBLIC since it was installed",
    f"GRANT EXECUTE ON FUNCTION {GETTER} TO anonymous": f"function {GETTER}: has a grant execute to anonymous since it was installed",
    f"REVOKE EXECUTE ON FUNCTION {GETTER} FROM authenticated": f"function {GETTER}: lost its grant execute to authenticated",
    "GRANT EXECUTE ON FUNCTION secretproxy.bcrypt(text, text) TO app_user":
        "function secretproxy.bcrypt(text,text): has a grant execute to app_user since it was installed",
    "DROP FUNCTION encrypted_secrets.secrets_delete(uuid, text[])": "function encrypted_secrets.secrets_delete(uuid,text[]) is missing",
    "CREATE FUNCTION encrypted_secrets.secrets_getter(uuid, varchar) RETURNS text LANGUAGE sql AS 'SELECT NULL'":
        "function encrypted_secrets.secrets_getter(uuid,character varying) was not there when it was installed",
    "CREATE FUNCTION secretproxy.hmac(bytea, bytea, text) RETURNS text LANGUAGE sql AS 'SELECT NULL'":
        "function secretproxy.hmac(bytea,bytea,text) was not there when it was installed",
    "ALTER TABLE secrets_schema.secrets_table DISABLE TRIGGER hash_secrets_insert":
        "trigger secrets_schema.secrets_table.hash_secrets_insert: enabled is D, was O",
    "DROP TRIGGER hash_secrets_update ON secrets_schema.secrets_table": "trigger secrets_schema.secrets_table.hash_secrets_update is missing",
    "CREATE TRIGGER spy AFTER INSERT ON secrets_schema.secrets_table EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()":
        "trigger secrets_schema.secrets_table.spy was not there when it was installed",
    "DROP TRIGGER append_only ON secretproxy.access_log": "trigger secretproxy.access_log.append_only is missing",
    "ALTER TABLE secretproxy.access_log_default DISABLE TRIGGER append_only_truncate": "partition secretproxy.access_log_default: not append-only",
    "ALTER TABLE secretproxy.access_log_default DISABLE TRIGGER append_only": "partition secretproxy.access_log_default: not append-only",
    "GRANT DELETE ON secretproxy.access_log_default TO secretproxy_writer": "partition secretproxy.access_log_default: has grants of its own",
    "ALTER TABLE secretproxy.access_log_default OWNER TO app_user": "partition secretproxy.access_log_default: owned by app_user",
    "ALTER TABLE secrets_schema.secrets_table ALTER id SET DEFAULT '00000000-0000-0000-0000-000000000001'":
        "column secrets_schema.secrets_table.id: its default was changed",
    "ALTER TABLE secrets_schema.secrets_table ALTER name DROP NOT NULL": "column secrets_schema.secrets_table.name: not null is false, was true",
    "ALTER TABLE secrets_schema.secrets_table ADD COLUMN copy text": "column secrets_schema.secrets_table.copy was not there when it was installed",
    "ALTER TABLE secrets_schema.secrets_table DROP CONSTRAINT secrets_table_secrets_owned_field_name_key":
        "constraint secrets_schema.secrets_table.secrets_table_secrets_owned_field_name_key is missing",
    "ALTER TABLE secretproxy.settings DROP CONSTRAINT settings_keyring_check": "constraint secretproxy.settings.settings_keyring_check is missing",
    "DROP INDEX secretproxy.access_log_owner_idx": "index secretproxy.access_log_owner_idx is missing",
    "ALTER TABLE secrets_schema.secrets_table ENABLE ROW LEVEL SECURITY":
        "relation secrets_schema.secrets_table: row security is true false, was false false",
    "CREATE POLICY all_of_it ON secrets_schema.secrets_table USING (true)":
        "policy secrets_schema.secrets_table.all_of_it was not there when it was installed",
    "CREATE RULE gone AS ON DELETE TO secretproxy.keyring DO INSTEAD NOTHING": "rule secretproxy.keyring.gone was not there when it was installed",
    "GRANT SELECT ON secrets_schema.secrets_table TO app_user":
        "relation secrets_schema.secrets_table: has a grant select to app_user since it was installed",
    "GRANT SELECT (key) ON secretproxy.keyring TO app_user": "column secretproxy.keyring.key: has a grant select to app_user since it was installed",
    "GRANT UPDATE ON secretproxy.access_log TO secretproxy_writer":
        "relation secretproxy.access_log: has a grant update to secretproxy_writer since it was installed",
    "GRANT USAGE ON SEQUENCE secretproxy.session_start TO PUBLIC":
        "relation secretproxy.session_start: has a grant usage to PUBLIC since it was installed",
    "GRANT CREATE ON SCHEMA encrypted_secrets TO PUBLIC": "schema encrypted_secrets: has a grant create to PUBLIC since it was installed",
    "ALTER SCHEMA secretproxy OWNER TO postgres": "schema secretproxy: owner is postgres, was secretproxy_owner",
    "CREATE OR REPLACE VIEW secretproxy.direct_accesses AS SELECT * FROM secretproxy.secret_access WHERE false":
        "relation secretproxy.direct_accesses: its definition was changed",
    "ALTER TABLE secretproxy.keyring SET UNLOGGED": "relation secretproxy.keyring: persistence is u, was p",
    "UPDATE secretproxy.context SET testimony_version = 9": "change context: something it made is missing or was changed",
}  # fmt: skip
HARMLESS = (
    "UPDATE secretproxy.testimony_key SET retired_at = now() WHERE version < 1",
    f"GRANT EXECUTE ON FUNCTION {GETTER} TO app_user",
    "GRANT SELECT ON secretproxy.secret_access TO app_user",
    "GRANT USAGE ON SCHEMA encrypted_secrets TO app_user",
    "SELECT secretproxy.access_log_partitions(7)",
    "ANALYZE; REINDEX TABLE secrets_schema.secrets_table",
    "CREATE FUNCTION jwt_public.something_else() RETURNS int LANGUAGE sql AS 'SELECT 1'",
)


def test_verify_names_what_differs(fresh: Database) -> None:
    """Every alteration is found alone, in a copy of one installation."""
    told: dict[str, list[str]] = {}
    with psycopg.connect(fresh.backend.dsn(), autocommit=True) as admin:
        for damage in (*DAMAGE, *HARMLESS):
            copy = Database(fresh.backend, f"{fresh.name}_copy")
            admin.execute(f"CREATE DATABASE {copy.name} TEMPLATE {fresh.name}")
            try:
                with copy.connect() as sql:
                    sql.execute(damage)
                told[damage] = findings(copy)
            finally:
                admin.execute(f"DROP DATABASE {copy.name} WITH (FORCE)")
    assert {damage: lines for damage, lines in told.items() if damage in HARMLESS and lines} == {}
    missed = {damage: (named, told[damage]) for damage, named in DAMAGE.items() if named not in told[damage]}
    assert missed == {}
    # A thing that is altered is named, and nothing next to it, but for what depends on it.
    named = {damage: [line for line in lines if not line.startswith("partition ")] for damage, lines in told.items()}
    assert {damage: lines for damage, lines in named.items() if len(lines) > 3} == {}


def test_what_is_written_down_is_written_last() -> None:
    """A change that came after it would differ from what it wrote, where sqitch deploys."""
    assert changes()[-1].name == "installed"


def test_a_role_that_may_more_is_named(fresh: Database) -> None:
    with fresh.connect() as sql:
        try:
            sql.execute("ALTER ROLE secretproxy_owner LOGIN")
            assert "role secretproxy_owner: login is true, was false" in findings(fresh)
        finally:
            sql.execute("ALTER ROLE secretproxy_owner NOLOGIN")
    assert findings(fresh) == []


def test_what_is_there_can_be_taken_for_right(fresh: Database) -> None:
    with fresh.connect() as sql:
        sql.execute("CREATE INDEX of_our_own ON secretproxy.access_log (client_addr)")
        assert findings(fresh) == ["index secretproxy.of_our_own was not there when it was installed"]
        assert fresh.install() == []
        assert findings(fresh) != [], "an installation that deploys nothing forgives nothing"
        asyncio.run(install(fresh.dsn(), fresh.backend.key_file, again=True))
        assert findings(fresh) != [], "neither does one of the same once more"
        asyncio.run(install(fresh.dsn(), fresh.backend.key_file, record=True))
        assert findings(fresh) == []
        # What was written down is edited: bodies are compared with the package's all the same.
        sql.execute("CREATE OR REPLACE FUNCTION secretproxy.facts(OUT kind text, OUT object text, OUT fact text, OUT value text) "
                    "RETURNS SETOF record LANGUAGE sql AS 'SELECT kind, object, fact, value FROM secretproxy.installed'")  # fmt: skip
        assert findings(fresh) == ["function secretproxy.facts(): its body was replaced"]


def test_no_key_goes_to_the_log_of_a_server_that_logs_everything(empty: Database, tmp_path: Path) -> None:
    server = empty.backend.server
    if server is None:
        pytest.skip("the log of a server in a container is not read here")
    key_file = tmp_path / "keys"
    with psycopg.connect(empty.backend.dsn(), autocommit=True) as admin:
        for setting in ("log_statement = 'all'", "log_min_duration_statement = 0", "log_parameter_max_length = -1",
                        "log_parameter_max_length_on_error = -1"):  # fmt: skip
            admin.execute(f"ALTER DATABASE {empty.name} SET {setting}")
    asyncio.run(install(empty.dsn(), key_file))
    staged = asyncio.run(stage_testimony(empty.dsn(), key_file))
    asyncio.run(activate_testimony(empty.dsn(), key_file))
    assert asyncio.run(verify(empty.dsn(), key_file)) == []
    text = server.log.read_text(errors="replace")
    assert "INSERT INTO secretproxy.testimony_key" in text, "statements are logged"
    found = load_key_file(key_file)
    assert staged in found
    assert [version for version, key in found.items() if key.hex() in text] == []


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
        pytest.skip(
            "the stock sqitch is not installed here (Debian: apt-get install sqitch libdbd-pg-perl postgresql-client)"
        )
    target = empty.dsn().replace("postgresql://", "db:pg://")
    environment = {
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "SQITCH_FULLNAME": "tests",
        "SQITCH_EMAIL": "tests@example.invalid",
    }
    for words in (["deploy", "--verify"], ["verify"], ["revert", "-y"]):
        done = subprocess.run(
            [sqitch, *words, target], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if words == ["verify"]:
            assert [line for line in findings(empty) if "key_file" not in line] == []
    assert [name for name in objects(empty) if "sqitch" not in name[1]] == []
