"""Lists every function that runs as a role of ours: who owns it, who may call it, what types it meets, and why nothing
in it is the caller's to define.

The entries stand here; a function that is added without one fails, and so does one whose owner, grants, types or body
leave what was argued for."""

from __future__ import annotations

import re
from typing import Any

import pglast
import pytest
from pglast.parser import parse_sql
from tests.integration.sql.conftest import Database

from secretproxy.install.project import changes

# Types whose input, output, casts and operators are PostgreSQL's own.
FIXED = {"uuid", "text", "bytea", "int4", "int8", "bool", "json", "_text", "_uuid", "void", "record", "trigger"}
API = "arguments of fixed types; touches no table; hands bytes from one role's function to the other's"
KEYS = "arguments of fixed types; reads the keys' own tables alone, where nobody else may attach anything"
TABLES = "arguments and results of fixed types; what is attached to the table runs as this role, which may open, seal and testify to nothing"
LOG = "arguments of fixed types; what is attached to the log runs as its owner, which holds no key"
# Signature: owner, who else may execute it, why.
DEFINERS: dict[str, tuple[str, set[str], str]] = {
    "encrypted_secrets.secrets_upsert(uuid,text,text,text)": ("api", {"authenticated"}, API),
    "encrypted_secrets.secrets_getter(uuid,text,text)": ("api", {"authenticated"}, API),
    "encrypted_secrets.secrets_verify(uuid,text,text)": ("api", {"authenticated"}, API),
    "encrypted_secrets.secrets_delete(uuid,text)": ("api", {"authenticated"}, API),
    "encrypted_secrets.secrets_delete(uuid,text[])": ("api", {"authenticated"}, API),
    "encrypted_secrets.secrets_table_upsert(uuid,json)": ("api", {"authenticated"}, API + "; of the JSON only texts are taken"),
    "encrypted_secrets.encrypt_field_pgp_get(bytea,text)": ("api", {"authenticated"}, API),
    "encrypted_secrets.encrypt_field_pgp_getter(uuid,text,text)": ("api", {"authenticated"}, API + "; a column's name is only compared"),
    "encrypted_secrets.encrypt_field_crypt_verify(uuid,text,text)": ("api", {"authenticated"}, API + "; a column's name is only compared"),
    "secretproxy.reencrypt(uuid,integer,boolean)": ("api", {"keys"}, API),
    "secretproxy.values_to_seal()": ("api", {"keys"}, API),
    "secrets_schema.tg_hash_secrets()": (
        "api", set(), "nobody may make a trigger of it; it refuses rows of another table, and looks at the types of the columns before at them",
    ),
    "secretproxy.begin_call(text,text,uuid,text[],text)": ("keys", {"api"}, KEYS),
    "secretproxy.read_secret(uuid,text,text,bytea)": ("keys", {"api"}, KEYS),
    "secretproxy.check_secret(uuid,text,text,bytea)": ("keys", {"api"}, KEYS),
    "secretproxy.verify_secret(uuid,text,text,bytea)": ("keys", {"api"}, KEYS),
    "secretproxy.seal_secret(uuid,text,bytea,text)": ("keys", {"api"}, KEYS),
    "secretproxy.open_secret(uuid,text,bytea)": ("keys", {"api"}, KEYS),
    "secretproxy.ring_prefix()": ("keys", {"api"}, KEYS),
    "secretproxy.rotate_keyring()": ("keys", set(), KEYS),
    "secretproxy.refresh_context()": ("keys", set(), "reads the settings by settings_now(), whose results have fixed types; else " + KEYS),
    "secretproxy.stored_secret(uuid,text)": ("tables", {"api"}, TABLES),
    "secretproxy.store_secret(uuid,text,bytea,text)": ("tables", {"api"}, TABLES),
    "secretproxy.delete_secrets(uuid,text[])": ("tables", {"api"}, TABLES),
    "secretproxy.replace_password(uuid,text,bytea,bytea)": ("tables", {"api"}, TABLES),
    "secretproxy.forget_password(uuid)": ("tables", {"api"}, TABLES),
    "secretproxy.first_secret(uuid)": ("tables", {"api"}, TABLES),
    "secretproxy.secrets_of(uuid)": ("tables", {"api"}, TABLES),
    "secretproxy.names_of(uuid)": ("tables", {"api"}, TABLES),
    "secretproxy.name_of(uuid,bytea)": ("tables", {"api"}, TABLES),
    "secretproxy.add_row(uuid,uuid,text,bytea,text)": ("tables", {"api"}, TABLES),
    "secretproxy.set_row(uuid,text,bytea,text)": ("tables", {"api"}, TABLES),
    "secretproxy.ids_to_seal(uuid,integer,bytea)": ("tables", {"api"}, TABLES),
    "secretproxy.rows_to_seal(uuid[],bytea,boolean)": ("tables", {"api"}, TABLES),
    "secretproxy.count_to_seal(bytea)": ("tables", {"api"}, TABLES),
    "secretproxy.set_value(uuid,bytea)": ("tables", {"api"}, TABLES),
    "secretproxy.sealed_rows()": ("tables", set(), TABLES),
    "secretproxy.restore_passwords()": ("tables", set(), TABLES),
    "secretproxy.has_rows()": ("tables", set(), TABLES),
    "secretproxy.stored_formats()": ("tables", {"auditor", "keys"}, TABLES + "; counts alone come out"),
    "secretproxy.names_to_mask()": ("tables", {"keys"}, TABLES),
    "secretproxy.stored_names()": (
        "keys", {"auditor"}, "no argument, so that no guessed name can be masked; takes names from names_to_mask(), whose results have fixed types",
    ),
    "secretproxy.key_proof(bytea)": (
        "keys", {"PUBLIC"}, "signs 32 bytes of the caller's behind words of its own, which begin nothing else that is signed; " + KEYS,
    ),
    "secretproxy.log_direct(text,text,uuid,text[],text,text,uuid,text)": ("owner", {"keys"}, LOG),
    "secretproxy.access_log_partitions(integer)": ("owner", {"writer"}, LOG + "; names of partitions are made of a date"),
    "secretproxy.keep_sums(bigint,bigint)": (
        "owner", {"writer"}, LOG + "; counts rows of the log into tables of ours, where nobody else may attach anything",
    ),
    "secretproxy.settings_now()": ("owner", {"keys"}, "no argument; results of fixed types"),
    "secretproxy.backend_start()": ("owner", {"PUBLIC"}, "no argument; says of the session what it may know"),
    "secretproxy.jwt_subject()": ("owner", {"PUBLIC"}, "no argument; a setting is cast only where it is known to be right"),
}  # fmt: skip
# Where a body looks at a row that its trigger is given, or puts a statement together.
ROWS = {"secrets_schema.tg_hash_secrets()"}
DYNAMIC = {"secretproxy.access_log_partitions(integer)"}

FOUND = """
SELECT p.oid::regprocedure::text AS signature, pg_get_userbyid(p.proowner) AS owner, p.prosrc AS body, l.lanname AS language,
       ARRAY(SELECT t.typname::text FROM pg_type t WHERE t.oid = ANY (coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype)
              AND t.typnamespace = 'pg_catalog'::regnamespace) AS types,
       ARRAY(SELECT t.typname::text FROM pg_type t WHERE t.oid = ANY (coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype)
              AND t.typnamespace <> 'pg_catalog'::regnamespace) AS others,
       ARRAY(SELECT coalesce(r.rolname, 'PUBLIC')::text FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
              LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE x.grantee <> p.proowner) AS grantees, p.proconfig AS config
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prosecdef AND p.pronamespace::regnamespace::text IN ('secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public')
"""


def written() -> set[tuple[str, str]]:
    """Gives the names of the functions that the scripts make SECURITY DEFINER."""
    found = set()
    for change in changes():
        for raw in parse_sql(change.script("deploy")):
            statement: Any = raw.stmt
            if not isinstance(statement, pglast.ast.CreateFunctionStmt):
                continue
            if any(option.defname == "security" and option.arg.boolval for option in statement.options or ()):
                schema, name = (part.sval for part in statement.funcname)
                found.add((schema, name))
    return found


def test_every_definer_of_the_scripts_has_an_entry() -> None:
    entries = {tuple(signature.partition("(")[0].split(".")) for signature in DEFINERS}
    assert written() == entries


@pytest.fixture(scope="module")
def functions(installed: Database) -> dict[str, Any]:
    from psycopg.rows import dict_row

    with installed.connect() as admin, admin.cursor(row_factory=dict_row) as cursor:
        return {row["signature"]: row for row in cursor.execute(FOUND).fetchall()}


def test_owners_and_grants_are_the_entries(functions: dict[str, Any]) -> None:
    def short(role: str) -> str:
        return role.removeprefix("secretproxy_")

    found = {name: (short(row["owner"]), {short(one) for one in row["grantees"]}) for name, row in functions.items()}
    assert found == {name: (owner, grants) for name, (owner, grants, _) in DEFINERS.items()}


def test_no_type_and_no_statement_is_the_callers(functions: dict[str, Any]) -> None:
    for signature, row in functions.items():
        body = re.sub(r"--[^\n]*", "", row["body"])
        assert not row["others"], signature
        assert set(row["types"]) <= FIXED, signature
        # Variables have PostgreSQL's types, or the type of the keys' own row.
        if row["language"] == "plpgsql" and signature not in DYNAMIC:
            declared = re.search(r"\bDECLARE\b(.*?)\bBEGIN\b", body, re.S)
            for line in declared[1].split(";") if declared else ():
                assert not line.strip() or re.match(
                    r"\s*\w+ (CONSTANT )?(pg_catalog\.\w+(\[\])?|secretproxy\.context)\b", line
                ), (signature, line)
        assert not re.search(r"%\s*(ROW)?TYPE\b|\banyelement\b|\bcurrent_schema", body, re.I), signature
        if signature not in DYNAMIC:
            assert not re.search(r"\bEXECUTE\b", body), signature
        if signature not in ROWS:
            assert not re.search(r"\b(NEW|OLD)\b", body), signature
        if DEFINERS[signature][0] in ("api", "keys"):
            assert "secrets_schema." not in re.sub(r"'[^']*'", "", body) or signature in ROWS, signature
        if DEFINERS[signature][0] == "tables":
            assert "current_user OPERATOR(pg_catalog.<>) 'secretproxy_tables'" in body, signature


def test_every_definer_runs_under_a_pinned_path(functions: dict[str, Any]) -> None:
    """The path names its own schema, or that of the only role that may call it, each of whose functions has one."""
    inner = {
        "secretproxy.stored_secret(uuid,text)",
        "secretproxy.read_secret(uuid,text,text,bytea)",
        "secretproxy.verify_secret(uuid,text,text,bytea)",
    }
    for signature, row in functions.items():
        pinned = any(one.startswith("search_path=pg_catalog, pg_temp") for one in row["config"] or ())
        assert pinned or signature in inner, signature
    assert all(DEFINERS[signature][1] == {"api"} for signature in inner)
