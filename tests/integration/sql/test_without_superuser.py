"""Runs install, verify, keys and revert by a role that owns the database and may make roles, and is no superuser: what
managed PostgreSQL gives."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend
from tests.integration.sql.conftest import Database
from tests.integration.sql.test_original import facts, fill, uses
from tests.support import original

from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import InstallError, install, keys, revert, verify
from secretproxy.install.keyfile import create_key_file
from secretproxy.install.rights import OWNERS

OLDER = Path(__file__).with_name("older.sql").read_text()
MEMBERSHIPS = """
SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
 WHERE u.rolname = 'deployer' AND r.rolname LIKE 'secretproxy%' AND ({}) ORDER BY 1
"""
CREATORS = """
SELECT n.nspname, x.grantee::regrole::text FROM pg_namespace n, aclexplode(n.nspacl) x
 WHERE n.nspname IN ('secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public', 'public') AND x.privilege_type = 'CREATE'
   AND x.grantee <> n.nspowner AND x.grantee::regrole::text LIKE 'secretproxy%' ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Gives a server that nobody has installed anything on: roles belong to the cluster."""
    with PrivateServer(find_postgres()) as server:
        yield Backend(server.host, server.port, tmp_path_factory.mktemp("managed") / "keys", server)


@pytest.fixture
def managed(cluster: Backend) -> Iterator[Database]:
    yield from provided(cluster)


def provided(cluster: Backend) -> Iterator[Database]:
    """Gives a database of `deployer`, as a provider hands it over."""
    made = Database(cluster, "managed")
    with psycopg.connect(cluster.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("CREATE ROLE deployer LOGIN CREATEROLE CREATEDB")
        if admin.info.server_version >= 160000:
            admin.execute("GRANT pg_read_all_stats TO deployer WITH ADMIN OPTION")
        admin.execute("CREATE DATABASE managed OWNER deployer TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield made
        finally:
            admin.execute("DROP DATABASE managed WITH (FORCE)")
            for (role,) in admin.execute(
                "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND NOT rolsuper"
            ).fetchall():
                admin.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(psycopg.sql.Identifier(role)))


def run(managed: Database, **options: Any) -> list[str]:
    return asyncio.run(install(managed.dsn("deployer"), managed.backend.key_file, **options))


def nothing_is_left(sql: psycopg.Connection[Any]) -> None:
    """Neither a membership with rights nor a right to make objects outlives a command."""
    usable = "inherit_option OR set_option" if sql.info.server_version >= 160000 else "true"
    assert sql.execute(MEMBERSHIPS.format(usable)).fetchall() == []
    assert sql.execute(CREATORS).fetchall() == []
    assert (
        sql.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND pg_has_role('deployer', oid, 'USAGE')",
            (list(OWNERS),),
        ).fetchall()
        == []
    )


def test_an_empty_database(managed: Database) -> None:
    owner = uuid.uuid4()
    assert len(run(managed)) > 10
    with managed.connect() as admin, managed.connect("deployer") as sql:
        nothing_is_left(admin)
        assert run(managed) == []
        assert asyncio.run(verify(managed.dsn("deployer"), managed.backend.key_file)) == []
        assert asyncio.run(verify(managed.dsn(), managed.backend.key_file)) == []
        admin.execute("UPDATE secretproxy.settings SET direct_calls = 'log'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT key FROM secretproxy.keyring")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fill(sql, owner)
        sql.execute("CREATE ROLE app LOGIN; GRANT authenticated TO app")
        with managed.connect("app") as app:
            fill(app, owner)
            assert app.execute("SELECT encrypted_secrets.secrets_getter(%s, 'pgp')", (owner,)).fetchone() == (
                "a value",
            )
        assert asyncio.run(keys.rotate(managed.dsn("deployer"))) == 2
        assert asyncio.run(keys.reencrypt(managed.dsn("deployer"), lambda done, total: None, 1)).done == 1
        assert [key.values for key in asyncio.run(keys.status(managed.dsn("deployer")))[0]] == [0, 1]
        nothing_is_left(admin)
        # Once more over everything, and what a superuser installed is the same.
        run(managed, again=True, classic_view=True)
        assert asyncio.run(verify(managed.dsn("deployer"), managed.backend.key_file)) == []
        nothing_is_left(admin)
        asyncio.run(revert(managed.dsn("deployer")))
        nothing_is_left(admin)
        assert sql.execute("SELECT count(*) FROM secrets_schema.secrets_table").fetchone() == (3,)


# What a deploying role has built on the modules that it owns, and how it goes on to use them.
BUILT = """
CREATE VIEW public.secret_names AS SELECT secrets_owned_field, name FROM secrets_schema.secrets_table;
CREATE VIEW public.opened AS SELECT t.name, encrypted_secrets.secrets_getter(t.secrets_owned_field, t.name) AS value
    FROM secrets_schema.secrets_table t WHERE t.secrets_enc_field = 'pgp';
CREATE FUNCTION public.wrapped(owner uuid, name text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public
    AS $$ SELECT encrypted_secrets.secrets_getter(wrapped.owner, wrapped.name) $$;
CREATE ROLE reader LOGIN;
GRANT USAGE ON SCHEMA encrypted_secrets, secrets_schema TO reader;
GRANT SELECT ON secrets_schema.secrets_table TO reader;
CREATE ROLE onlooker LOGIN;
GRANT USAGE ON SCHEMA encrypted_secrets TO onlooker;
"""
GETTER = "SELECT encrypted_secrets.secrets_getter(%s, 'pgp')"
UPSERT = "SELECT encrypted_secrets.secrets_upsert(%s, 'new', 'x')"
DELETE = "SELECT encrypted_secrets.secrets_delete(%s, 'new')"
# Who could do what before, and can after: PUBLIC may execute every function of the original, which run as whoever calls
# them.
COULD = {
    ("deployer", GETTER): True, ("deployer", UPSERT): True, ("deployer", DELETE): True,
    ("deployer", "SELECT count(*) FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s"): True,
    ("deployer", "UPDATE secrets_schema.secrets_table SET name = name WHERE secrets_owned_field = %s AND name = 'none'"): True,
    ("deployer", "SELECT public.wrapped(%s, 'pgp')"): True,
    ("deployer", "SELECT count(value) FROM public.opened WHERE %s::uuid IS NOT NULL"): True,
    ("deployer", "CREATE FUNCTION encrypted_secrets.of_my_own(uuid) RETURNS int LANGUAGE sql AS 'SELECT 1'; "
                 "DROP FUNCTION encrypted_secrets.of_my_own(uuid) -- %s"): True,
    ("reader", GETTER): True, ("reader", UPSERT): False, ("reader", DELETE): False,
    ("onlooker", GETTER): False, ("onlooker", UPSERT): False, ("onlooker", DELETE): False,
    ("onlooker", "SELECT encrypted_secrets.encrypt_field_set('x') WHERE %s::uuid IS NOT NULL"): True,
}  # fmt: skip


def could(managed: Database, owner: uuid.UUID) -> dict[tuple[str, str], bool]:
    found = {}
    for role, statement in COULD:
        with managed.connect(role) as sql:
            try:
                sql.execute(statement.replace("%s", f"'{owner}'"))
                found[role, statement] = True
            except psycopg.errors.InsufficientPrivilege:
                found[role, statement] = False
    return found


def test_over_the_original(managed: Database) -> None:
    """One role deploys, builds upon, adopts and gives back: everybody can do what they could."""
    owner = uuid.uuid4()
    told: dict[str, str] = {}
    with managed.connect() as admin, managed.connect("deployer") as sql:
        sql.execute("CREATE ROLE authenticated NOLOGIN; CREATE ROLE anonymous NOLOGIN")
        sql.execute(original.script(sql.info.server_version // 10000))
        fill(sql, owner)
        sql.execute(BUILT)
        before, given = facts(sql), uses(sql, owner)
        assert could(managed, owner) == COULD
        run(managed, progress=lambda what, state: told.__setitem__(what, state))
        assert "CREATE, USAGE on schema encrypted_secrets" in told["deployer"]
        assert "DELETE, INSERT" in told["deployer"]
        nothing_is_left(admin)
        assert could(managed, owner) == COULD
        assert uses(sql, owner) == given
        assert asyncio.run(verify(managed.dsn("deployer"), managed.backend.key_file)) == []
        for mine in ("CREATE TRIGGER mine AFTER INSERT ON secrets_schema.secrets_table EXECUTE FUNCTION public.nothing()",
                     "CREATE TABLE public.child (id uuid REFERENCES secrets_schema.secrets_table (id))",
                     "SELECT key FROM secretproxy.keyring", "DROP TABLE secrets_schema.secrets_table"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(mine)
        dump(managed, "deployer")
        run(managed, again=True)
        nothing_is_left(admin)
        assert could(managed, owner) == COULD
        asyncio.run(revert(managed.dsn("deployer")))
        nothing_is_left(admin)
        assert facts(sql) == before
        assert could(managed, owner) == COULD
        assert uses(sql, owner) == given


def dump(managed: Database, role: str) -> None:
    """A role that reads none of our schema runs pg_dump, with the secrets' rows."""
    server = managed.backend.server
    if server is None or not server.binaries.has("pg_dump"):
        return
    words = [str(server.binaries.program("pg_dump")), "-N", "secretproxy", managed.dsn(role)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "COPY secrets_schema.secrets_table" in done.stdout


def test_a_role_can_be_given_what_an_owner_had(managed: Database) -> None:
    """Another role than the deploying one goes on with `--owner`."""
    owner = uuid.uuid4()
    with managed.connect() as admin, managed.connect("deployer") as sql:
        sql.execute("CREATE ROLE other LOGIN")
        told: dict[str, str] = {}
        run(managed, owner="other", direct_calls="log", progress=lambda what, state: told.__setitem__(what, state))
        assert "EXECUTE on" in told["other"]
        with managed.connect("other") as other:
            fill(other, owner)
            assert other.execute("SELECT count(*) FROM secrets_schema.secrets_table").fetchone() == (3,)
        assert asyncio.run(verify(managed.dsn(), managed.backend.key_file)) == []
        with pytest.raises(InstallError, match="there is no role nobody_of_that_name"):
            run(managed, owner="nobody_of_that_name")
        asyncio.run(revert(managed.dsn("deployer")))
        with managed.connect("other") as other, pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("SELECT count(*) FROM secrets_schema.secrets_table")
        nothing_is_left(admin)


# What is taken from the role, and the statement that install asks for.
LACKS = {
    # What belongs to the database's owner since PostgreSQL 15, and is often revoked.
    "ALTER SCHEMA public OWNER TO postgres; REVOKE ALL ON SCHEMA public FROM PUBLIC": "GRANT USAGE ON SCHEMA public TO deployer",
    'CREATE SCHEMA "its own"; CREATE EXTENSION pgcrypto SCHEMA "its own"': 'GRANT USAGE ON SCHEMA "its own" TO deployer',
    "ALTER ROLE deployer NOCREATEROLE": "ALTER ROLE deployer CREATEROLE",
    "ALTER DATABASE managed OWNER TO postgres": "GRANT CREATE ON DATABASE managed TO deployer",
    "CREATE SCHEMA encrypted_secrets": "GRANT postgres TO deployer",
    "CREATE SCHEMA secrets_schema; CREATE ROLE other; ALTER SCHEMA secrets_schema OWNER TO other": "GRANT other TO deployer",
}
LACKS_16 = {
    "REVOKE pg_read_all_stats FROM deployer": "GRANT pg_read_all_stats TO deployer WITH ADMIN OPTION",
    "CREATE ROLE secretproxy_keys": "GRANT secretproxy_keys TO deployer WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
}


def test_what_is_missing_is_said_as_a_statement_to_run(managed: Database) -> None:
    with managed.connect() as admin:
        lacks = LACKS | (LACKS_16 if admin.info.server_version >= 160000 else {})
        for taken, wanted in lacks.items():
            admin.execute(taken)
            with pytest.raises(InstallError) as refused:
                run(managed)
            assert wanted in str(refused.value), taken
            assert admin.execute("SELECT to_regnamespace('secretproxy')").fetchone() == (None,), "nothing was done"
            admin.execute(wanted)
        # What it asked for is what it needed.
        run(managed)
        nothing_is_left(admin)
        assert asyncio.run(verify(managed.dsn("deployer"), managed.backend.key_file)) == []


def test_an_older_version_of_a_superuser_is_brought_up(managed: Database) -> None:
    """The command names what it lacks, and goes on once it has that."""
    owner = uuid.uuid4()
    with managed.connect() as admin:
        admin.execute(OLDER)
        admin.execute(
            "INSERT INTO secretproxy.testimony_key (version, key) VALUES (1, %s)",
            (create_key_file(managed.backend.key_file)[1],),
        )
        fill(admin, owner)
        if admin.info.server_version >= 160000:
            with pytest.raises(InstallError) as refused:
                run(managed)
            for statement in str(refused.value).partition(" run ")[2].partition("; or connect")[0].split("; "):
                admin.execute(statement)
        assert run(managed) != []
        nothing_is_left(admin)
        assert asyncio.run(verify(managed.dsn("deployer"), managed.backend.key_file)) == []
        assert admin.execute("SELECT encrypted_secrets.secrets_getter(%s, 'pgp')", (owner,)).fetchone() == ("a value",)


def test_a_role_that_may_do_nothing_of_it_is_told_so(managed: Database) -> None:
    run(managed)
    with managed.connect() as admin:
        admin.execute("CREATE ROLE passer LOGIN")
    dsn = managed.dsn("passer")
    for command in (
        lambda: install(dsn, managed.backend.key_file), lambda: verify(dsn, managed.backend.key_file), lambda: revert(dsn),
        lambda: keys.status(dsn), lambda: keys.rotate(dsn), lambda: keys.reencrypt(dsn, lambda done, total: None), lambda: keys.testimony_status(dsn),
        lambda: keys.stage_testimony(dsn, managed.backend.key_file), lambda: keys.activate_testimony(dsn, managed.backend.key_file),
    ):  # fmt: skip
        with pytest.raises(InstallError, match="superuser"):
            asyncio.run(command())
    assert asyncio.run(verify(managed.dsn("deployer"), managed.backend.key_file)) == []
