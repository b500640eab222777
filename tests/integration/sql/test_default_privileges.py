"""Checks that default privileges of whoever installs give nobody a key, a function that opens values, the log, or a
place to make objects."""

from __future__ import annotations

import psycopg
import pytest
from tests.integration.sql.conftest import Database

KINDS = ("TABLES", "SEQUENCES", "FUNCTIONS", "SCHEMAS")
# What the scripts themselves give everybody.
EVERYBODYS = {
    "secretproxy.backend_start()", "secretproxy.bcrypt(text,text)", "secretproxy.bcrypt_salt(integer)", "secretproxy.pgp_encrypt_1(bytea,text)",
    "secretproxy.jwt_subject()", "secretproxy.key_proof(bytea)",
}  # fmt: skip
GIVEN = """
SELECT c.oid::regclass::text FROM pg_class c, aclexplode(c.relacl) x
 WHERE (c.relnamespace = 'secretproxy'::regnamespace OR c.oid = 'secrets_schema.secrets_table'::regclass) AND x.grantee = %(role)s::oid
UNION
SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(p.proacl) x
 WHERE (p.pronamespace = 'secretproxy'::regnamespace OR p.proname = 'tg_hash_secrets') AND x.grantee = %(role)s::oid
UNION
SELECT 'CREATE in ' || n.nspname FROM pg_namespace n, aclexplode(n.nspacl) x
 WHERE n.nspname IN ('secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public') AND x.privilege_type = 'CREATE' AND x.grantee = %(role)s::oid
"""


@pytest.fixture(params=["app_user", "authenticated", "PUBLIC"])
def generous(request: pytest.FixtureRequest, empty: Database) -> tuple[Database, str]:
    with empty.connect() as admin:
        for kind in KINDS:
            admin.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {request.param}")
    return empty, request.param


def given(admin: psycopg.Connection[tuple[str]], role: str) -> set[str]:
    row = admin.execute("SELECT coalesce((SELECT oid FROM pg_roles WHERE rolname = %s), 0)::text", (role,)).fetchone()
    assert row is not None
    return {name for (name,) in admin.execute(GIVEN, {"role": row[0]})}


def test_default_privileges_give_nothing_of_ours(generous: tuple[Database, str]) -> None:
    database, role = generous
    database.install()
    with database.connect() as admin:
        assert given(admin, role) == (EVERYBODYS if role == "PUBLIC" else set())


def test_what_they_gave_is_taken_away_by_the_next_installation(empty: Database) -> None:
    """An older version left such rights."""
    empty.install()
    with empty.connect() as admin:
        for kind in KINDS:
            admin.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO app_user")
        admin.execute("GRANT SELECT ON secretproxy.keyring TO app_user")
        admin.execute("GRANT EXECUTE ON FUNCTION secretproxy.open_secret(uuid, text, bytea) TO app_user")
        admin.execute("UPDATE secretproxy.changes SET digest = '' WHERE change IN ('keyring', 'installed')")
    empty.install()
    with empty.connect() as admin, empty.connect("app_user") as app:
        assert given(admin, "app_user") == set()
        for statement in ("SELECT key FROM secretproxy.keyring", "SELECT secretproxy.open_secret(NULL, '', '')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
