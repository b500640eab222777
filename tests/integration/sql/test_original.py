"""Checks the newest original module, deployed as its own tools do it: adopted, used, reverted, deployed once more,
deployed later."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database
from tests.support import original

from secretproxy.install import install, remedy, revert, verify

# What no grant at all means is spelled out.
ACL = "(SELECT array_agg(x ORDER BY x::text) FROM unnest(coalesce({0}, acldefault('{1}', {2}))) x)::text"
FACTS = {
    "schemas": "SELECT nspname, pg_get_userbyid(nspowner), "
    + ACL.format("nspacl", "n", "nspowner")
    + " FROM pg_namespace "
    "WHERE nspname IN ('encrypted_secrets', 'secrets_schema') ORDER BY 1",
    "relations": "SELECT oid, relname, pg_get_userbyid(relowner), "
    + ACL.format("relacl", "r", "relowner")
    + " FROM pg_class "
    "WHERE relnamespace::regnamespace::text IN ('encrypted_secrets', 'secrets_schema') ORDER BY 1",
    "columns": "SELECT attname, atttypid::regtype::text, attnotnull, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum) "
    "FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
    "WHERE attrelid = 'secrets_schema.secrets_table'::regclass AND attnum > 0 ORDER BY attnum",
    "functions": "SELECT p.oid, p.oid::regprocedure::text, pg_get_userbyid(proowner), prosrc, prosecdef, provolatile, proconfig, "
    "(SELECT lanname FROM pg_language l WHERE l.oid = prolang), "
    + ACL.format("proacl", "f", "proowner")
    + " FROM pg_proc p "
    "WHERE pronamespace::regnamespace::text IN ('encrypted_secrets', 'secrets_schema') ORDER BY 1",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger "
    "WHERE tgrelid = 'secrets_schema.secrets_table'::regclass AND NOT tgisinternal ORDER BY 1",
    "members": "SELECT classid::regclass::text, objid, (SELECT extname FROM pg_extension e WHERE e.oid = refobjid) FROM pg_depend "
    "WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND objid IN (SELECT oid FROM pg_proc WHERE "
    "pronamespace::regnamespace::text IN ('encrypted_secrets', 'secrets_schema') UNION SELECT 'secrets_schema.secrets_table'::regclass) "
    "ORDER BY 1, 2",
}
MEMBERS = """
CREATE EXTENSION citext;
DO $$ DECLARE f record; BEGIN
    FOR f IN SELECT p.oid::regprocedure AS name FROM pg_proc p
              WHERE p.pronamespace::regnamespace::text IN ('encrypted_secrets', 'secrets_schema') LOOP
        EXECUTE format('ALTER EXTENSION citext ADD FUNCTION %s', f.name);
    END LOOP;
    ALTER EXTENSION citext ADD TABLE secrets_schema.secrets_table;
    ALTER EXTENSION citext ADD SCHEMA encrypted_secrets;
END $$;
"""
VALUES = {"pgp": "a value", "crypt": "a password", "none": "as it is"}


def facts(sql: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    return {name: sql.execute(statement).fetchall() for name, statement in FACTS.items()}


def fill(sql: psycopg.Connection[Any], owner: uuid.UUID) -> None:
    for encoding, value in VALUES.items():
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, %s, %s)", (owner, encoding, value, encoding))


def uses(sql: psycopg.Connection[Any], owner: uuid.UUID) -> dict[str, Any]:
    """Gives what every function that answers says of the secrets of `fill`."""
    one = {"o": owner, "only": uuid.uuid5(owner, "only")}
    sql.execute("SELECT encrypted_secrets.secrets_upsert(%(only)s, 'n', 'alone')", one)
    asked = {
        **{
            f"getter {name}": f"SELECT encrypted_secrets.secrets_getter(%(o)s, '{name}')"
            for name in ("pgp", "none", "missing")
        },
        "default": "SELECT encrypted_secrets.secrets_getter(%(o)s, 'missing', 'default')",
        **{
            f"verify {name}": f"SELECT encrypted_secrets.secrets_verify(%(o)s, '{name}', '{value}')"
            for name, value in VALUES.items()
        },
        **{f"wrong {name}": f"SELECT encrypted_secrets.secrets_verify(%(o)s, '{name}', 'wrong')" for name in VALUES},
        "set": "SELECT encrypted_secrets.encrypt_field_bytea_to_text(encrypted_secrets.encrypt_field_set('text'))",
        "pgp_get": "SELECT encrypted_secrets.encrypt_field_pgp_get(secrets_value_field, secrets_owned_field::text) "
        "FROM secrets_schema.secrets_table WHERE secrets_owned_field = %(o)s AND name = 'pgp'",
        "pgp_getter": "SELECT encrypted_secrets.encrypt_field_pgp_getter(%(only)s, 'secrets_value_field', 'secrets_owned_field')",
    }
    return {name: sql.execute(statement, one).fetchone() for name, statement in asked.items()}


@pytest.mark.parametrize("variant", ["uuidv7()", "uuid_generate_v4()", "gen_random_uuid()", "no grants", "members"])
def test_it_is_adopted_and_given_back(empty: Database, variant: str) -> None:
    owner = uuid.uuid4()
    default = variant if variant.endswith("()") else "uuidv7()"
    with empty.connect() as sql:
        if "v4" in default:
            try:
                sql.execute('CREATE EXTENSION "uuid-ossp"')
            except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported):
                pytest.skip("this PostgreSQL has no uuid-ossp that loads")
        sql.execute(original.script(sql.info.server_version // 10000, default, variant != "no grants"))
        if variant == "members":
            sql.execute(MEMBERS)
        fill(sql, owner)
        before, given = facts(sql), uses(sql, owner)
        rows = sql.execute("SELECT * FROM secrets_schema.secrets_table ORDER BY id").fetchall()

        empty.install()
        assert uses(sql, owner) == given
        assert facts(sql)["members"] == []
        fill(sql, uuid.uuid4())
        sql.execute('SELECT encrypted_secrets.secrets_table_upsert(%s, \'{"name": "json"}\')', (uuid.uuid4(),))
        assert asyncio.run(verify(empty.dsn(), empty.backend.key_file)) == []

        asyncio.run(revert(empty.dsn()))
        assert facts(sql) == before
        assert uses(sql, owner) == given
        after = {
            row[0]: row for row in sql.execute("SELECT * FROM secrets_schema.secrets_table ORDER BY id").fetchall()
        }
        assert [after[row[0]] for row in rows if row[2] != "n"] == [row for row in rows if row[2] != "n"]


# Each puts something of the original in the place of ours, and the change that brings ours back.
REPLACED = {
    "every function": (lambda: original.functions_again(), {"encrypted_secrets", "encrypt_fields"}),
    "the getter alone": (lambda: original.GETTER.replace("CREATE", "CREATE OR REPLACE"), {"encrypted_secrets"}),
    "the trigger's function": (lambda: original.HASH_SECRETS.partition("CREATE TRIGGER")[0].replace("CREATE", "CREATE OR REPLACE"), {"secrets_table"}),
    "a function dropped": (lambda: "DROP FUNCTION encrypted_secrets.secrets_delete(uuid, text[])", {"encrypted_secrets"}),
    "dropped and made": (
        lambda: "DROP FUNCTION encrypted_secrets.secrets_verify(uuid, text, text);" + original.VERIFY, {"encrypted_secrets"}),
    "no definer": (lambda: "ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) SECURITY INVOKER", {"encrypted_secrets"}),
    "another owner": (lambda: "ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) OWNER TO postgres", {"encrypted_secrets"}),
    "another search_path": (
        lambda: "ALTER FUNCTION secrets_schema.tg_hash_secrets() SET search_path = public", {"secrets_table"}),
}  # fmt: skip


@pytest.mark.parametrize("adopted", [True, False])
def test_what_replaced_ours_is_replaced_by_ours_again(empty: Database, adopted: bool) -> None:
    """The original is deployed over an installation: install finds it by itself and verify names the command."""
    owner, other = uuid.uuid4(), uuid.uuid4()
    with empty.connect() as sql:
        if adopted:
            sql.execute(original.script(sql.info.server_version // 10000))
        empty.install()
        fill(sql, owner)
        given = uses(sql, owner)
        for name, (statement, wanted) in REPLACED.items():
            sql.execute(statement())
            found = asyncio.run(verify(empty.dsn(), empty.backend.key_file))
            assert found, name
            assert "`secretproxy install" in remedy(found)
            if name == "every function":
                assert remedy(found) == "run `secretproxy install`: it deploys again what differs"
                fill(sql, other)  # by the original's functions, through our trigger
            assert set(empty.install()) == wanted, name
            assert asyncio.run(verify(empty.dsn(), empty.backend.key_file)) == [], name
            assert uses(sql, owner) == given, name
        assert uses(sql, other) == given
        assert empty.install() == []


def views(sql: psycopg.Connection[Any]) -> list[Any]:
    return sql.execute(
        "SELECT relkind, pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('public.secret_access_log')"
    ).fetchall()


def findings(database: Database) -> list[str]:
    return asyncio.run(verify(database.dsn(), database.backend.key_file))


@pytest.mark.parametrize("before", [True, False])
def test_the_log_of_the_readme_goes_on(empty: Database, before: bool) -> None:
    """There is a table of the short view's name and the getter that writes it, made before an installation or after
    it."""
    owner = uuid.uuid4()

    def read(sql: psycopg.Connection[Any]) -> None:
        assert sql.execute("SELECT public.get_secret_with_audit(%s, 'pgp')", (owner,)).fetchone() == (VALUES["pgp"],)

    with empty.connect() as sql:
        sql.execute(original.script(sql.info.server_version // 10000))
        fill(sql, owner)
        if before:
            sql.execute(original.README)
            read(sql)
        empty.install()
        assert views(sql) == ([("r", "postgres")] if before else [])
        if not before:
            sql.execute(original.README)
        read(sql)
        told: dict[str, str] = {}
        asyncio.run(
            install(
                empty.dsn(),
                empty.backend.key_file,
                lambda what, state: told.__setitem__(what, state),
                classic_view=True,
            )
        )
        assert "left alone" in told["public.secret_access_log"]
        assert views(sql) == [("r", "postgres")]
        read(sql)
        assert findings(empty) == []
        asyncio.run(install(empty.dsn(), empty.backend.key_file, classic_view=False))
        asyncio.run(revert(empty.dsn()))
        read(sql)
        assert sql.execute("SELECT count(*) FROM public.secret_access_log").fetchone() == (4 if before else 3,)


def test_the_short_view_is_in_public_where_somebody_asks(empty: Database) -> None:
    asyncio.run(install(empty.dsn(), empty.backend.key_file, classic_view=True))
    with empty.connect() as sql, empty.connect("auditor") as auditor:
        for _ in range(2):
            assert views(sql) == [("v", "secretproxy_owner")]
            assert findings(empty) == []
            assert auditor.execute("SELECT count(*) FROM secret_access_log").fetchone() == (0,)
            empty.install()  # says nothing of it: it stays
        asyncio.run(install(empty.dsn(), empty.backend.key_file, again=True))
        assert (views(sql), findings(empty)) == ([("v", "secretproxy_owner")], [])
        sql.execute(
            "CREATE OR REPLACE VIEW public.secret_access_log AS SELECT * FROM secretproxy.secret_access_log WHERE false"
        )
        assert findings(empty) == ["relation public.secret_access_log: its definition was changed"]
        asyncio.run(install(empty.dsn(), empty.backend.key_file, classic_view=False))
        assert (views(sql), findings(empty)) == ([], [])
        asyncio.run(install(empty.dsn(), empty.backend.key_file, classic_view=True))
        asyncio.run(revert(empty.dsn()))
        assert views(sql) == []


def test_nothing_is_sealed_twice(empty: Database) -> None:
    """Our upsert runs over the original's trigger function, which would seal what is sealed: it finds no pgcrypto where
    ours run."""
    owner = uuid.uuid4()
    with empty.connect() as sql:
        sql.execute(original.script(sql.info.server_version // 10000))
        empty.install()
        sql.execute(REPLACED["the trigger's function"][0]())
        with pytest.raises(psycopg.errors.UndefinedFunction):
            fill(sql, owner)
        assert empty.install() == ["secrets_table"]
        fill(sql, owner)
        assert uses(sql, owner)["getter pgp"] == (VALUES["pgp"],)
