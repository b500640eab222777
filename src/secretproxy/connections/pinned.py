"""The settings of every own connection, whatever postgresql.conf, ALTER ROLE and ALTER DATABASE say.

Pinned is what changes the meaning of a statement, the form of an answer, who runs it, how long it may take or where it
writes. What only makes a plan or a write faster or slower stays as the server has it.
tests/integration/test_pinned_settings.py goes through pg_settings and fails for one that is neither here nor named
there. Pure."""

from __future__ import annotations

from collections.abc import Mapping

# A role that runs a session may set these; all are older than PostgreSQL 14. They go into the startup packet, so that a
# login's own timeouts and libraries take no effect even before the first statement.
PINNED = {
    # Names and their resolution.
    "search_path": "pg_catalog, pg_temp", "quote_all_identifiers": "off",
    # How a statement is read.
    "standard_conforming_strings": "on", "backslash_quote": "safe_encoding", "escape_string_warning": "on",
        "array_nulls": "on",
    "transform_null_equals": "off", "xmloption": "content", "check_function_bodies": "on",
    # How values are written and read.
    "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "TimeZone": "UTC", "extra_float_digits": "1", "bytea_output":
        "hex",
    "xmlbinary": "base64", "lc_monetary": "C", "lc_numeric": "C", "lc_time": "C",
    # How long things may take: the caller's own timeouts rule.
    "statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "idle_session_timeout":
        "0",
    # Transactions and errors.
    "default_transaction_isolation": "read committed", "default_transaction_deferrable": "off", "synchronous_commit":
        "on",
    "exit_on_error": "off", "client_min_messages": "notice",
    # Which rows there are.
    "row_security": "on", "gin_fuzzy_search_limit": "0", "constraint_exclusion": "partition",
    # Where new things lie.
    "default_tablespace": "", "temp_tablespaces": "", "default_table_access_method": "heap",
    # What would load or run other code, or write a statement's tree or parameters into the server's log.
    "local_preload_libraries": "", "jit": "off", "plan_cache_mode": "auto", "debug_print_parse": "off",
        "debug_print_rewritten": "off",
    "debug_print_plan": "off", "log_parameter_max_length_on_error": "0",
    # ALTER DATABASE ... SET role turns every login into another.
    "role": "none",
}  # fmt: skip
# Set after the login, where the server has them and the login may: settings of newer versions, a superuser's, and one
# that target_session_attrs asks for as the server has it.
PINNED_LATER = {
    "default_transaction_read_only": "off", "transaction_timeout": "0", "restrict_nonsystem_relation_kind": "",
        "createrole_self_grant": "",
    "debug_parallel_query": "off", "force_parallel_mode": "off", "session_replication_role": "origin",
        "lo_compat_privileges": "off",
    "composite_type_mismatch": "error", "zero_damaged_pages": "off", "ignore_checksum_failure": "off",
        "allow_system_table_mods": "off",
    "log_parameter_max_length": "0",
    "auto_explain.log_parameter_max_length": "0",
}  # fmt: skip
# Somebody who gives these in the connection string itself wants them.
TIMEOUTS = frozenset(
    {
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "transaction_timeout",
    }
)
# For whoever reads the log or compares an installation: nothing is written, and a row policy is an error, not fewer
# rows.
READING: dict[str, str | None] = {"default_transaction_read_only": "on", "row_security": "off"}


def startup(settings: Mapping[str, str | None], left: frozenset[str]) -> dict[str, str]:
    """Gives the parameters of the startup packet: PINNED with a caller's `settings` (None: keep the server's), without
    those in `left`.
    """
    chosen: dict[str, str | None] = {
        **PINNED,
        **{name: value for name, value in settings.items() if name not in PINNED_LATER},
    }
    return {name: value for name, value in chosen.items() if value is not None and name not in left}


def statement(settings: Mapping[str, str | None], left: frozenset[str]) -> str:
    """Makes the statement that sets all of them, for a pooler that may have dropped the startup parameters.

    It resolves names in pg_catalog alone, whatever search_path is, and skips settings that the server does not have or
    the login may not set.
    """
    chosen: dict[str, str | None] = {**PINNED, **PINNED_LATER, **settings}
    chosen.pop("role")
    values = "), (".join(
        f"'{name}'::pg_catalog.text, {_literal(value)}::pg_catalog.text"
        for name, value in chosen.items()
        if value is not None and name not in left
    )
    return f"SET ROLE NONE; {_TRUSTED}; {_SET.replace('{values}', values)}"


# Views and triggers of a schema that somebody else made under our name would run as this login. Whoever owns the
# database can make one before anything is installed.
_TRUSTED = """DO $trusted$
DECLARE
    v_owner pg_catalog.name := (
        SELECT r.rolname FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r
            ON r.oid OPERATOR(pg_catalog.=) n.nspowner
         WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name AND NOT r.rolsuper
           AND r.rolname OPERATOR(pg_catalog.<>) ALL (ARRAY['secretproxy_owner'::pg_catalog.name, session_user]));
BEGIN
    IF v_owner IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.concat(
            'schema secretproxy of this database belongs to ', pg_catalog.quote_ident(v_owner),
            ', who can have put code into it: drop or rename it');
    END IF;
END
$trusted$"""
_SET = """SELECT pg_catalog.set_config(p.name, p.value, false)
  FROM (VALUES ({values})) AS p (name, value), pg_catalog.pg_settings s, pg_catalog.pg_roles r
 WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) pg_catalog.lower(p.name)
     AND r.rolname OPERATOR(pg_catalog.=) session_user
   AND (s.context OPERATOR(pg_catalog.=) 'user'::pg_catalog.text
        OR (s.context OPERATOR(pg_catalog.=) 'superuser'::pg_catalog.text AND r.rolsuper))"""


def _literal(value: str) -> str:
    # The settings of this module and of its callers: constants without quotes and backslashes, whatever the server
    # makes of those.
    if "'" in value or "\\" in value:
        raise ValueError("a pinned setting's value holds a quote or a backslash")
    return f"'{value}'"
