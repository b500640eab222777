"""Tries what a client that may call the functions can do to them from its own session: settings, shadows, forged
state."""

from __future__ import annotations

import re
import uuid
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a51")
HELPED = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a52")
# Every function of the API and every helper, each way through it; what it must answer.
CALLS: dict[str, Any] = {
    "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'a', %(v)s)": True,
    "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'b', %(v)s, 'crypt')": True,
    "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'c', %(v)s, 'none')": True,
    "SELECT encrypted_secrets.secrets_getter(%(o)s, 'a')": "the \\ value",
    "SELECT encrypted_secrets.secrets_getter(%(o)s, 'c')": "the \\ value",
    "SELECT encrypted_secrets.secrets_getter(%(o)s, 'older')": "older \\ value",
    "SELECT encrypted_secrets.secrets_getter(%(o)s, 'missing', 'default')": "default",
    "SELECT left(encrypted_secrets.secrets_getter(%(o)s, 'b'), 4)": "$2a$",
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'a', %(v)s)": True,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'b', %(v)s)": True,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'c', %(v)s)": True,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'b', 'wrong')": False,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'older', %(w)s)": True,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'older password', %(w)s)": True,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'older password', 'other')": False,
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'missing', 'x')": False,
    "SELECT encrypted_secrets.encrypt_field_pgp_getter(%(h)s, 'secrets_value_field', 'secrets_owned_field')": "the \\ value",
    "SELECT encrypted_secrets.encrypt_field_crypt_verify(%(h)s, 'secrets_value_field', 'x')": False,
    "SELECT encrypted_secrets.encrypt_field_bytea_to_text(encrypted_secrets.encrypt_field_set(%(v)s))": "the \\ value",
    "SELECT encrypted_secrets.secrets_table_upsert(%(h)s, json_build_object('secrets_value_field', %(v)s::text))::text": "",
    "SELECT encrypted_secrets.secrets_delete(%(o)s, 'c')::text": "",
    "SELECT encrypted_secrets.secrets_delete(%(o)s, ARRAY['a', 'b', NULL])::text": "",
    "SELECT encrypted_secrets.secrets_getter(%(o)s, 'a', 'gone')": "gone",
}
VALUES = {"o": OWNER, "h": HELPED, "v": "the \\ value", "w": "older \\ value"}
# Settings that any client may change and that PostgreSQL heeds while it parses, plans or runs a function's statements.
SETTINGS = {
    "none": (),
    "old strings": ("standard_conforming_strings = off", "escape_string_warning = on", "backslash_quote = on"),
    "strict plpgsql": ("plpgsql.extra_errors = 'all'", "plpgsql.extra_warnings = 'all'", "plpgsql.print_strict_params = on"),
    "output": (
        "bytea_output = 'escape'", "DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Kathmandu'", "IntervalStyle = 'sql_standard'", "extra_float_digits = -15",
        "quote_all_identifiers = on", "transform_null_equals = on", "array_nulls = off", "client_encoding = 'LATIN1'",
    ),
    "plans": ("plan_cache_mode = force_custom_plan", "enable_indexscan = off", "enable_seqscan = off", "jit_above_cost = 0", "from_collapse_limit = 1"),
    "generic plans": ("plan_cache_mode = force_generic_plan", "enable_nestloop = off"),
    "serializable": ("default_transaction_isolation = 'serializable'",),
    "paths": ("search_path = ''", "role = 'none'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(installed: Database) -> Database:
    return installed


def prepare(admin: psycopg.Connection[Any]) -> None:
    admin.execute("DELETE FROM secrets_schema.secrets_table WHERE secrets_owned_field IN (%s, %s)", (OWNER, HELPED))
    admin.execute("SET session_replication_role = replica")
    admin.execute(
        "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) VALUES "
        "(%(o)s, 'older', pgp_sym_encrypt(encode(convert_to('older \\ value', 'UTF8'), 'hex'), %(o)s::text), 'pgp'), "
        "(%(o)s, 'older password', crypt(convert_to('older \\ value', 'UTF8')::text, gen_salt('bf', 4))::bytea, 'crypt')",
        {"o": OWNER},
    )
    admin.execute("RESET session_replication_role")
    admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'only', 'the \\ value')", (HELPED,))


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_setting_of_the_client_changes_an_answer(stored: Database, settings: str) -> None:
    with stored.connect() as admin, stored.connect("app_user") as sql:
        prepare(admin)
        for setting in SETTINGS[settings]:
            sql.execute(f"SET {setting}")
        given = {call: sql.execute(call, VALUES).fetchone()[0] for call in CALLS}  # type: ignore[index]
    assert given == CALLS


def keys_of(admin: psycopg.Connection[Any]) -> list[bytes]:
    return [
        bytes(key)
        for row in admin.execute(
            "SELECT key, inner_pad, outer_pad FROM secretproxy.keyring UNION ALL SELECT key, inner_pad, outer_pad FROM secretproxy.testimony_key"
        ).fetchall()
        for key in row
    ]


def as_printed(key: bytes) -> str:
    """Gives a part of a key as nodes are printed: signed decimal bytes."""
    return " ".join(str(byte - 256 if byte > 127 else byte) for byte in key[4:28])


@pytest.mark.parametrize("mode", ["auto", "force_custom_plan"])
def test_no_plan_that_the_client_can_have_printed_holds_a_key(stored: Database, mode: str) -> None:
    """debug_print_plan and client_min_messages are anybody's to set; a plan made for one execution holds its
    parameters."""
    heard: list[str] = []
    with stored.connect() as admin, stored.connect("app_user") as sql:
        prepare(admin)
        sql.add_notice_handler(
            lambda notice: heard.append(f"{notice.message_primary} {notice.message_detail} {notice.context}")
        )
        for setting in ("debug_print_plan", "debug_print_parse", "debug_print_rewritten"):
            sql.execute(f"SET {setting} = on")
        sql.execute(f"SET plan_cache_mode = {mode}")
        sql.execute("SET client_min_messages = debug5")
        for call in CALLS:
            sql.execute(call, VALUES)
        assert any("plan:" in line for line in heard), "plans are printed"
        text = " ".join(re.sub(r"\s+", " ", line) for line in heard)
        for key in keys_of(admin):
            assert as_printed(key) not in text
            assert key.hex() not in text


SHADOWS = """
SET search_path = public;
CREATE FUNCTION {0}.spy() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a shadow ran'; END $$;
CREATE FUNCTION {0}.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT {0}.spy()::bytea $$;
CREATE FUNCTION {0}.convert_from(bytea, name) RETURNS text LANGUAGE sql AS $$ SELECT {0}.spy() $$;
CREATE FUNCTION {0}.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT {0}.spy()::bytea $$;
CREATE FUNCTION {0}.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT {0}.spy() $$;
CREATE FUNCTION {0}.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT {0}.spy() $$;
CREATE FUNCTION {0}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT {0}.spy()::timestamptz $$;
CREATE FUNCTION {0}.pg_backend_pid() RETURNS int LANGUAGE sql AS $$ SELECT {0}.spy()::int $$;
CREATE FUNCTION {0}.substr(bytea, int, int) RETURNS bytea LANGUAGE sql AS $$ SELECT {0}.spy()::bytea $$;
CREATE FUNCTION {0}.same(bytea, bytea) RETURNS boolean LANGUAGE sql AS $$ SELECT {0}.spy()::boolean $$;
CREATE FUNCTION {0}.joined(bytea, bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT {0}.spy()::bytea $$;
CREATE OPERATOR {0}.= (FUNCTION = {0}.same, LEFTARG = bytea, RIGHTARG = bytea);
CREATE OPERATOR {0}.|| (FUNCTION = {0}.joined, LEFTARG = bytea, RIGHTARG = bytea);
CREATE TABLE {0}.secrets_table (id uuid, name text);
CREATE TABLE {0}.context (only_row boolean);
CREATE DOMAIN {0}.uuid AS pg_catalog.text;
CREATE DOMAIN {0}.bytea AS pg_catalog.text;
"""
# pgcrypto's own are in public, and not the client's to replace.
CRYPTO = """
CREATE FUNCTION pg_temp.pgp_sym_decrypt_bytea(bytea, text) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_temp.spy()::bytea $$;
CREATE FUNCTION pg_temp.hmac(bytea, bytea, text) RETURNS bytea LANGUAGE sql AS $$ SELECT pg_temp.spy()::bytea $$;
CREATE FUNCTION pg_temp.crypt(text, text) RETURNS text LANGUAGE sql AS $$ SELECT pg_temp.spy() $$;
"""


@pytest.mark.parametrize("schema", ["public", "pg_temp"])
def test_nothing_of_the_client_stands_in_for_what_the_functions_use(stored: Database, schema: str) -> None:
    with stored.connect() as admin, stored.connect("app_user") as sql:
        admin.execute("GRANT CREATE ON SCHEMA public TO app_user")
        prepare(admin)
        try:
            sql.execute(SHADOWS.format(schema) + (CRYPTO if schema == "pg_temp" else ""))
            sql.execute("SET search_path = pg_temp, public, pg_catalog")
            calls = {call.replace("SELECT left(", "SELECT pg_catalog.left("): answer for call, answer in CALLS.items()}
            given = {call: sql.execute(call, VALUES).fetchone()[0] for call in calls}  # type: ignore[index]
            assert given == calls
            sql.execute("SELECT jwt_public.current_user_id()")
        finally:
            sql.execute("DISCARD ALL")
            admin.execute("DROP OWNED BY app_user; GRANT authenticated TO app_user")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "1",
        "1.1.",
        "1.1." + "0" * 64,
        "1..",
        "1.%.%",
        "2.1.x",
        "1.99999999999999999999.x",
        "1.1." + "x" * 1_000_000,
        "1.1.\n",
        "1.0.'\"\\",
    ],
    ids=lambda token: f"{token[:12]!r}",
)
def test_a_made_up_token_makes_a_call_direct(stored: Database, token: str) -> None:
    counted = "SELECT count(*) FROM secretproxy.access_log WHERE event = 'direct'"
    with stored.connect() as admin, stored.connect("app_user") as sql:
        before = admin.execute(counted).fetchone()
        sql.execute("SELECT set_config('secretproxy.session', %s, false)", (token,))
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'x')", (OWNER,))
        after = admin.execute(counted).fetchone()
        assert before is not None
        assert after == (before[0] + 1,)


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        ("ARRAY['a', NULL, 'b']", {"a", "b"}),
        ("ARRAY[['a', 'b'], ['c', NULL]]", {"a", "b", "c"}),
        ("'[5:6]={a,b}'::text[]", {"a", "b"}),
        ("'[7:7]={a}'::text[]", {"a"}),
        ("ARRAY[['a']]", {"a"}),
        ("'{}'::text[]", set()),
        ("NULL::text[]", set()),
        ("ARRAY[NULL]::text[]", set()),
        ("ARRAY['', E'new\\nline', E'tab\\t', 'x,y', '~', '_', '=']", {"", "new\nline", "tab\t", "x,y", "~", "_", "="}),
        ("ARRAY(SELECT 'n' || i FROM generate_series(1, 20000) i) || 'a'::text", {"a"}),
    ],
)
def test_names_of_any_form_are_deleted_and_told(stored: Database, names: str, gone: set[str]) -> None:
    everything = {"a", "b", "c", "", "new\nline", "tab\t", "x,y", "~", "_", "="}
    with stored.connect() as admin, stored.connect("app_user") as sql:
        for name in everything:
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'v', 'none')", (OWNER, name))
        sql.execute(f"SELECT encrypted_secrets.secrets_delete(%s, {names})", (OWNER,))
        left = admin.execute(
            "SELECT name FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s", (OWNER,)
        ).fetchall()
        assert {row[0] for row in left} & everything == everything - gone
        told = admin.execute(
            "SELECT secret_names FROM secretproxy.access_log WHERE event = 'direct' ORDER BY at DESC LIMIT 1"
        ).fetchone()
        wanted = admin.execute(
            f"SELECT CASE WHEN {names} IS NOT NULL THEN ARRAY(SELECT unnest({names})) END"
        ).fetchone()
        assert told == wanted


@pytest.mark.parametrize(
    ("encoding", "value"),
    [("LATIN1", "caf\u00e9 \\ \u00ff"), ("SQL_ASCII", "caf\u00e9 \U0001f511"), ("WIN1250", "\u017e\u2026")],
)
def test_databases_of_other_encodings(stored: Database, encoding: str, value: str) -> None:
    """Names and values consist of their characters; format 1 there is in their bytes; what they cannot hold is an
    error, not another value."""
    name = f"encoded_{encoding.lower()}"
    with stored.connect() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
        other = Database(stored.backend, name)
        try:
            other.install()
            with other.connect() as sql:
                sql.execute("SET client_encoding = 'UTF8'")
                sql.execute("UPDATE secretproxy.settings SET crypt_cost = 4")
                for kind in ("pgp", "none", "crypt"):
                    sql.execute(
                        "SELECT encrypted_secrets.secrets_upsert(%s, %s, %s, %s)", (OWNER, value + kind, value, kind)
                    )
                    if kind != "crypt":
                        assert sql.execute(
                            "SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, value + kind)
                        ).fetchone() == (value,)
                    assert sql.execute(
                        "SELECT encrypted_secrets.secrets_verify(%(o)s, %(n)s, %(v)s), encrypted_secrets.secrets_verify(%(o)s, %(n)s, 'no')",
                        {"o": OWNER, "n": value + kind, "v": value},
                    ).fetchone() == (True, False)
                sql.execute(
                    "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) "
                    "SELECT %(o)s, 'older', secretproxy.pgp_encrypt_1(convert_to(%(v)s, getdatabaseencoding()), %(o)s::text), 'none'",
                    {"o": OWNER, "v": value},
                )
                sql.execute("UPDATE secrets_schema.secrets_table SET secrets_enc_field = 'pgp' WHERE name = 'older'")
                assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'older')", (OWNER,)).fetchone() == (
                    value,
                )
                told = sql.execute(
                    "SELECT DISTINCT secret_names[1] FROM secretproxy.access_log WHERE event = 'direct'"
                ).fetchall()
                assert {row[0] for row in told} == {value + "pgp", value + "none", value + "crypt", "older"}
                sql.execute("SELECT secretproxy.rotate_keyring()")
                row = sql.execute(
                    "SELECT done, failed FROM secretproxy.reencrypt('00000000-0000-0000-0000-000000000000', 10, true)"
                ).fetchone()
                assert row == (2, 0)
                assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'older')", (OWNER,)).fetchone() == (
                    value,
                )
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_keyring_elsewhere_is_told_to_be_none(stored: Database) -> None:
    with stored.connect() as admin:
        for value in ("external", "vault"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="keyring must be internal") as told:
                admin.execute("UPDATE secretproxy.settings SET keyring = %s", (value,))
            assert "docs/operations.md" in (told.value.diag.message_hint or "")


def test_the_owner_of_the_schema_jwt_public_gets_nothing(empty: Database) -> None:
    """It belongs to whoever made it, who may drop and make functions there: ours call none of them."""
    with empty.connect() as admin, empty.connect("app_user") as sql:
        admin.execute("CREATE SCHEMA jwt_public AUTHORIZATION app_user")
        empty.install()
        sql.execute("DROP FUNCTION jwt_public.current_user_id()")
        sql.execute(
            "CREATE FUNCTION jwt_public.current_user_id() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$"
        )
        sql.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (str(OWNER),))
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', 'value')", (OWNER,))
        assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a')", (OWNER,)).fetchone() == ("value",)
        assert admin.execute(
            "SELECT DISTINCT accessed_by FROM secretproxy.access_log WHERE event = 'direct'"
        ).fetchall() == [(OWNER,)]
        admin.execute("DROP OWNED BY app_user CASCADE; GRANT authenticated TO app_user")


def test_a_name_that_testimony_cannot_tell_is_refused_in_a_proxied_session_too(stored: Database) -> None:
    """The getter's short way says what the long way says, and no more."""
    token = (
        "SELECT '1.' || version || '.' || secretproxy.hmac(inner_pad, outer_pad, convert_to('SPXT1 ' || %s || ' ' || %s, 'SQL_ASCII')) "
        "FROM secretproxy.testimony_key WHERE retired_at IS NULL ORDER BY version DESC LIMIT 1"
    )
    told: list[str] = []
    with stored.connect() as admin, stored.connect("app_user") as sql:
        sql.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        made = admin.execute(
            token, sql.execute("SELECT pg_backend_pid()::text, secretproxy.backend_start()::text").fetchone()
        )
        sql.execute("SELECT set_config('secretproxy.session', %s, false)", made.fetchone())
        for name in ("x", "", "caf\u00e9\n", "y" * 500_000, "z" * 999_999, "z" * 1_000_001, None, "x"):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, name))
        names = [line.split(" ")[7] for line in told]
        assert names == [
            "78", "_", "café\n".encode().hex(), "79" * 500_000, "7a" * 999_999, "7a" * 1_000_001, "~", "78",
        ]  # fmt: skip
        assert {line.split(" ")[12] for line in told} == {"p"}
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, "z" * 2_500_000))
        assert len(told) == len(names)
