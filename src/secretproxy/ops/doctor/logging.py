"""Reports server settings that write statement text, parameters or plans, and so values, to the server's log or a view.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from secretproxy.ops.doctor.findings import Finding


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's value and where it was set: `source` as in pg_settings, or the ALTER that set it for others."""

    name: str
    value: str
    source: str = ""
    database: str | None = None
    role: str | None = None

    @property
    def scope(self) -> str:
        where = [f"role {self.role}"] if self.role else []
        where += [f"database {self.database}"] if self.database else []
        return f" (for {', '.join(where)})" if where else ""


@dataclass(frozen=True, slots=True)
class Rule:
    """The values of a setting that are a finding, and the value that it should have."""

    severity: str
    leaks: Callable[[str], bool]
    what: str
    safe: str
    # Values of it that are but a warning.
    mild: Sequence[str] = ()


def _on(value: str) -> bool:
    return value in ("on", "true", "yes", "1")


def _enabled(value: str) -> bool:
    """Says whether a threshold in milliseconds is on: -1 is off."""
    return not value.startswith("-")


_STATEMENTS = "the server's log holds statements in full, and with them every value that stands in their text"
_PARAMETERS = "the server's log holds bind parameters, and with them values"
_PGAUDIT = "pgaudit logs statements in full, and with them values in the arguments of functions"

RULES: dict[str, Rule] = {
    "log_statement": Rule("error", lambda v: v != "none", _STATEMENTS, "none", ("ddl",)),
    "log_min_duration_statement": Rule("error", _enabled, _STATEMENTS, "-1"),
    "log_min_duration_sample": Rule("warning", _enabled, _STATEMENTS, "-1"),
    "log_transaction_sample_rate": Rule("warning", lambda v: float(v) > 0, _STATEMENTS, "0"),
    "log_min_error_statement": Rule(
        "warning",
        lambda v: v not in ("fatal", "panic"),
        "a statement that fails is logged in full, and with it every value in its text",
        "panic",
    ),
    "log_parameter_max_length_on_error": Rule("error", lambda v: v != "0", _PARAMETERS, "0"),
    "debug_print_parse": Rule("warning", _on, "the server's log holds parse trees, and in them constants", "off"),
    "debug_print_rewritten": Rule(
        "warning", _on, "the server's log holds rewritten trees, and in them constants", "off"
    ),
    "debug_print_plan": Rule("warning", _on, "the server's log holds plans, and in them constants", "off"),
    "pgaudit.log": Rule(
        "error",
        lambda v: v.strip().lower() not in ("", "none", "role", "ddl", "role, ddl", "ddl, role"),
        _PGAUDIT,
        "none",
    ),
    "pgaudit.log_parameter": Rule("error", _on, "pgaudit logs bind parameters, and with them values", "off"),
    "auto_explain.log_min_duration": Rule(
        "warning", _enabled, "auto_explain logs statements in full with their plans, and with them values", "-1"
    ),
    "pg_qualstats.track_constants": Rule("warning", _on, "pg_qualstats keeps the constants of conditions", "off"),
    "pg_stat_monitor.pgsm_normalized_query": Rule(
        "warning", lambda v: not _on(v), "pg_stat_monitor keeps statements with their constants", "on"
    ),
    "pg_stat_statements.track_utility": Rule(
        "warning",
        _on,
        "pg_stat_statements keeps utility statements (DO, PREPARE, COPY, EXPLAIN) with their constants",
        "off",
    ),
}
# Matter only where statements are logged at all.
_WITH_STATEMENTS = ("log_parameter_max_length", "auto_explain.log_parameter_max_length")
NAMES = (*RULES, *_WITH_STATEMENTS, "track_activities", "track_activity_query_size")


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def fix(setting: Setting, safe: str) -> str:
    """Gives the statement that resets a setting where it was set."""
    if setting.role and setting.database:
        return f"ALTER ROLE {identifier(setting.role)} IN DATABASE {identifier(setting.database)} RESET {setting.name}"
    if setting.role:
        return f"ALTER ROLE {identifier(setting.role)} RESET {setting.name}"
    if setting.database:
        return f"ALTER DATABASE {identifier(setting.database)} RESET {setting.name}"
    return f"ALTER SYSTEM SET {setting.name} = {quoted(safe)}; SELECT pg_catalog.pg_reload_conf()"


def _bytes(value: str) -> int:
    """Reads a setting in bytes, with or without a unit."""
    found = re.match(r"\d+", value)
    return int(found[0]) * {"kB": 1024, "MB": 1024**2}.get(value[found.end() :], 1) if found else 0


def examine(settings: Iterable[Setting]) -> list[Finding]:
    """Findings on the settings that a session in this database would have, and on those made for other roles and
    databases."""
    known = list(settings)
    found = _leaks(known)
    return [*found, *_parameters(known, {finding.name for finding in found}), *_activity(known)]


def _leaks(known: list[Setting]) -> list[Finding]:
    """Gives a finding for each setting whose rule says that it leaks."""
    found = []
    for setting in known:
        rule = RULES.get(setting.name)
        if rule is None or not rule.leaks(setting.value):
            continue
        found.append(
            Finding(
                setting.name,
                "warning" if setting.value in rule.mild else rule.severity,
                f"{setting.name} is {setting.value}{setting.scope}",
                rule.what,
                fix(setting, rule.safe),
            )
        )
    return found


def _parameters(known: list[Setting], logged: set[str]) -> list[Finding]:
    """Gives the findings on bind parameters, which leak where `logged` names a setting that logs statements."""
    found = []
    for setting in known:
        with_log = logged & {
            "log_statement",
            "log_min_duration_statement",
            "log_min_duration_sample",
            "log_transaction_sample_rate",
        }
        relevant = (
            with_log if setting.name == "log_parameter_max_length" else logged & {"auto_explain.log_min_duration"}
        )
        if setting.name in _WITH_STATEMENTS and setting.value != "0" and relevant:
            found.append(
                Finding(
                    setting.name,
                    "error",
                    f"{setting.name} is {setting.value}{setting.scope}",
                    _PARAMETERS,
                    fix(setting, "0"),
                )
            )
    return found


def _activity(known: list[Setting]) -> list[Finding]:
    """Gives the finding on what pg_stat_activity shows of running statements."""
    found = []
    values = {setting.name: setting.value for setting in known if not setting.role and not setting.database}
    if _on(values.get("track_activities", "off")) and _bytes(values.get("track_activity_query_size", "0")) > 1024:
        found.append(
            Finding(
                "track_activity_query_size", "info",
                f"pg_stat_activity shows the first {values['track_activity_query_size']} bytes of running statements",
                "superusers and members of pg_read_all_stats see values that stand in the text of a running statement",
                "ALTER SYSTEM SET track_activity_query_size = 1024 -- and restart; better, send values as bind "
                "parameters",
            )
        )  # fmt: skip
    return found
