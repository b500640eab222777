"""Checks calls that come by no proxy: the function itself logs or refuses them; the owner check; helper functions of
the original module."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.integration.sql.conftest import Database

from secretproxy.audit.masking import NameMask
from secretproxy.config import MonitorSettings

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a31")
OTHER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a32")
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
HOSTILE = [
    "x'); drop table t; --",
    "%I",
    "%s",
    '"',
    "secrets_value_field FROM secrets_schema.secrets_table; --",
    "",
    "id'||'",
    "\\",
]


def direct(database: Database) -> list[dict[str, Any]]:
    with database.connect() as admin, admin.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM secretproxy.access_log WHERE event = 'direct' ORDER BY at").fetchall()


def setting(database: Database, name: str, value: str) -> None:
    with database.connect() as admin:
        admin.execute(f"UPDATE secretproxy.settings SET {name} = '{value}'")


@pytest.fixture
def stored(fresh: Database) -> Database:
    with fresh.connect() as admin:
        admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'key', 'the value')", (OWNER,))
        admin.execute("SET session_replication_role = replica")
        admin.execute("DELETE FROM secretproxy.access_log")
    return fresh


def test_a_direct_call_is_logged(stored: Database) -> None:
    with stored.connect("app_user") as sql:
        assert sql.execute(GETTER).fetchone() == ("the value",)
    (row,) = direct(stored)
    assert (row["function"], row["operation"], row["owner_id"], row["secret_names"], row["db_user"]) == (
        "encrypted_secrets.secrets_getter(uuid,text,text)", "read", OWNER, ["key"], "app_user",
    )  # fmt: skip
    assert "the value" not in str(row)


def test_a_direct_call_is_refused(stored: Database) -> None:
    setting(stored, "direct_calls", "refuse")
    with (
        stored.connect("app_user") as sql,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="through secretproxy"),
    ):
        sql.execute(GETTER)


def test_another_session_opened_from_inside_is_direct(stored: Database) -> None:
    """dblink from a session: its own token is not the other session's."""
    with stored.connect() as admin:
        try:
            admin.execute("CREATE EXTENSION dblink")
        except psycopg.errors.UndefinedFile:
            pytest.skip("the server's dblink does not load")
        inner = psycopg.conninfo.make_conninfo(stored.dsn())
        call = "SELECT v FROM dblink(%s, %s) AS t (v text)"
        token = "SELECT set_config('secretproxy.session', '1.1.' || repeat('0', 64), false)"
        admin.execute(token)
        assert admin.execute(call, (inner, GETTER)).fetchone() == ("the value",)
        assert len(direct(stored)) == 1
        setting(stored, "direct_calls", "refuse")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            admin.execute(call, (inner, GETTER))


def test_a_token_counts_for_its_own_session_alone(stored: Database) -> None:
    token = (
        "SELECT '1.' || version || '.' || secretproxy.hmac(inner_pad, outer_pad, convert_to('SPXT1 ' || %s || ' ' || %s, 'SQL_ASCII')) "
        "FROM secretproxy.testimony_key WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1"
    )
    with stored.connect() as admin, stored.connect("app_user") as one, stored.connect("app_user") as two:
        me = one.execute("SELECT pg_backend_pid()::text, secretproxy.backend_start()::text").fetchone()
        assert me is not None
        made = admin.execute(token, me).fetchone()
        assert made is not None
        for session in (one, two):
            session.execute("SELECT set_config('secretproxy.session', %s, false)", made)
            session.execute(GETTER)
        one.execute("DISCARD SEQUENCES")
        one.execute(GETTER)
        assert [row["client_port"] for row in direct(stored)] == [
            two.execute("SELECT inet_client_port()").fetchone()[0]  # type: ignore[index]
        ]


def test_the_kept_start_of_a_session_cannot_be_made_up(stored: Database) -> None:
    """Whoever could set it could use another session's token."""
    with stored.connect("app_user") as sql:
        for attempt in (
            "SELECT setval('secretproxy.session_start', 1)", "SELECT nextval('secretproxy.session_start')",
            "ALTER SEQUENCE secretproxy.session_start RESTART", "SELECT secretproxy.own_start(NULL)",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(attempt)


def test_a_read_only_transaction_can_read(stored: Database) -> None:
    with stored.connect("app_user") as sql:
        sql.execute("SET default_transaction_read_only = on")
        assert sql.execute(GETTER).fetchone() == ("the value",)


def test_owner_check(stored: Database) -> None:
    setting(stored, "owner_check", "jwt")
    with stored.connect("app_user") as sql:
        sql.execute("SET ROLE authenticated")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="current_user_id"):
            sql.execute(GETTER)
        sql.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (str(OTHER),))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(GETTER)
        sql.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (str(OWNER),))
        assert sql.execute(GETTER).fetchone() == ("the value",)
        sql.execute("RESET ROLE")
        assert sql.execute(GETTER).fetchone() == ("the value",)
        # Every member is checked, as which role it ever calls: itself, a role that it became, one between.
        sql.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (str(OTHER),))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="members of authenticated"):
            sql.execute(GETTER)


def test_owner_check_covers_every_member(stored: Database) -> None:
    setting(stored, "owner_check", "jwt")
    with stored.connect() as admin:
        admin.execute(
            "CREATE ROLE owner_check_group NOLOGIN IN ROLE authenticated; CREATE ROLE owner_check_far LOGIN IN ROLE owner_check_group"
        )
        admin.execute("CREATE ROLE owner_check_other NOLOGIN; GRANT owner_check_other TO owner_check_far")
        admin.execute(
            "CREATE ROLE owner_check_service LOGIN; GRANT USAGE ON SCHEMA encrypted_secrets TO owner_check_service, owner_check_other"
        )
        admin.execute(
            "GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) TO owner_check_service, owner_check_other"
        )
        try:
            with stored.connect("owner_check_far") as sql:
                for role in ("none", "owner_check_group", "owner_check_other"):
                    sql.execute(f"SET ROLE {role}")
                    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="members of authenticated"):
                        sql.execute(GETTER)
                sql.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (str(OWNER),))
                assert sql.execute(GETTER).fetchone() == ("the value",)
            with stored.connect("owner_check_service") as sql:
                assert sql.execute(GETTER).fetchone() == ("the value",), "who is no member is not checked"
            assert admin.execute(GETTER).fetchone() == ("the value",), "a superuser is a member of nothing"
            admin.execute("SET ROLE owner_check_group")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="members of authenticated"):
                admin.execute(GETTER)
        finally:
            admin.execute("RESET ROLE")
            for role in ("owner_check_far", "owner_check_group", "owner_check_other", "owner_check_service"):
                admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("name", HOSTILE)
def test_helpers_only_compare_names(stored: Database, name: str) -> None:
    with stored.connect() as admin:
        admin.execute("CREATE TABLE public.t (i int)")
    with stored.connect("app_user") as sql:
        sql.execute("SET search_path = encrypted_secrets, public")
        for statement, values in (
            ("SELECT encrypt_field_pgp_getter(%s, %s, 'secrets_owned_field')", (OWNER, name)),
            ("SELECT encrypt_field_pgp_getter(%s, 'secrets_value_field', %s)", (OWNER, name)),
            ("SELECT encrypt_field_crypt_verify(%s, %s, 'x')", (OWNER, name)),
            ("SELECT secrets_table_upsert(%s, jsonb_build_object(%s::text, 'x')::json)", (OWNER, name)),
        ):
            with pytest.raises(psycopg.Error) as caught:
                sql.execute(statement, values)
            assert caught.value.sqlstate == "42703", statement
        # A name of a secret may be anything.
        sql.execute("SELECT secrets_upsert(%s, %s, %s)", (OTHER, name, name))
        assert sql.execute("SELECT secrets_getter(%s, %s)", (OTHER, name)).fetchone() == (name,)
    with stored.connect() as admin:
        assert admin.execute("SELECT to_regclass('public.t') IS NOT NULL").fetchone() == (True,)


def test_helpers_answer_as_the_original_ones(stored: Database) -> None:
    with stored.connect() as sql:
        sql.execute("SET search_path = encrypted_secrets, public")
        assert sql.execute(
            "SELECT encrypt_field_pgp_getter(%s, 'secrets_value_field', 'secrets_owned_field')", (OWNER,)
        ).fetchone() == ("the value",)
        assert sql.execute(
            "SELECT encrypt_field_pgp_get(secrets_value_field, secrets_owned_field::text) FROM secrets_schema.secrets_table"
        ).fetchone() == ("the value",)
        assert sql.execute("SELECT encrypt_field_bytea_to_text(encrypt_field_set('caf\u00e9 \\ %s'))").fetchone() == (
            "caf\u00e9 \\ %s",
        )
        sql.execute("SELECT secrets_upsert(%s, 'password', 'right', 'crypt')", (OTHER,))
        assert sql.execute(
            "SELECT encrypt_field_crypt_verify(%(o)s, 'secrets_value_field', 'right'), "
            "encrypt_field_crypt_verify(%(o)s, 'secrets_value_field', 'wrong')", {"o": OTHER}
        ).fetchone() == (True, False)  # fmt: skip
        assert {row["operation"] for row in direct(stored)} == {"read", "verify", "write"}


@pytest.mark.parametrize(
    "name", ["sk_live_4eC39HqLyjWDarjtT1zdp7dc", "x" * 201, "é" * 101, "-----BEGIN RSA PRIVATE KEY-----"]
)
def test_a_name_that_looks_like_a_value_is_masked_as_the_proxy_masks_it(stored: Database, name: str) -> None:
    with stored.connect("app_user") as sql:
        sql.execute("SELECT set_config('application_name', left(%s, 60), false)", (name,))
        sql.execute("SELECT encrypted_secrets.secrets_delete(%s, ARRAY['plain', %s, NULL])", (OWNER, name))
    with stored.connect() as admin:
        key = admin.execute(
            "SELECT key FROM secretproxy.testimony_key WHERE active ORDER BY version DESC LIMIT 1"
        ).fetchone()
    assert key is not None
    masked = NameMask(200, MonitorSettings().name_patterns, key[0])
    (row,) = direct(stored)
    assert row["secret_names"] == ["plain", masked(name), None] and name not in str(row["secret_names"])
    if name[0] in "s-":
        assert row["application_name"] == masked(name[:60])


def test_a_pattern_of_ones_own_counts_for_direct_calls(stored: Database) -> None:
    setting(stored, "name_pattern", "^own-")
    with stored.connect("app_user") as sql:
        for name in ("own-value", "sk_live_but_not_ours"):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, name))
    assert [row["secret_names"][0][:7] for row in direct(stored)] == ["masked:", "sk_live"]
    with pytest.raises(psycopg.errors.InvalidRegularExpression):
        setting(stored, "name_pattern", "(")


def test_more_names_than_can_be_told_are_refused(stored: Database) -> None:
    with stored.connect("app_user") as sql, pytest.raises(psycopg.errors.ProgramLimitExceeded):
        sql.execute(
            "SELECT encrypted_secrets.secrets_delete(%s, ARRAY(SELECT repeat('x', 1000) FROM generate_series(1, 2001)))",
            (OWNER,),
        )


def test_a_call_in_a_parallel_worker_is_an_error(stored: Database) -> None:
    """A function may say that it is parallel safe and call one that is not: a worker's testimony would be nobody's."""
    with stored.connect() as admin:
        admin.execute(
            "CREATE FUNCTION public.mislabelled(n int) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS"
            f" $$ BEGIN RETURN encrypted_secrets.secrets_getter('{OWNER}', 'key') || n; END $$;"
            " CREATE TABLE public.many AS SELECT i FROM generate_series(1, 3000) i; GRANT SELECT ON public.many TO PUBLIC; ANALYZE public.many"
        )
    for read_only in ("off", "on"):
        with stored.connect("app_user") as sql:
            version = sql.info.server_version
            for name, value in {
                "debug_parallel_query" if version >= 160000 else "force_parallel_mode": "on",
                "parallel_setup_cost": "0", "parallel_tuple_cost": "0", "min_parallel_table_scan_size": "0",
                "parallel_leader_participation": "off", "default_transaction_read_only": read_only,
            }.items():  # fmt: skip
                sql.execute(f"SET {name} = {value}")
            query = "SELECT count(public.mislabelled(i)) FROM public.many WHERE i < 4"
            assert "Workers Planned" in str(sql.execute(f"EXPLAIN {query}").fetchall())
            with pytest.raises(psycopg.errors.InvalidTransactionState):
                sql.execute(query)
