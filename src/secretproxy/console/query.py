"""Reads the filter in a page's query string. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secretproxy.audit.filters import Filter, moment
from secretproxy.config import ConfigError

# What is asked about most, and what else an access has: a field for each column.
OFTEN = ("user", "secret", "owner", "operation", "outcome", "application", "client", "function", "jwt_user", "session")
SELDOM = (
    "role", "sqlstate", "calls", "duration", "database", "stored", "via", "how", "protocol", "fingerprint", "port",
    "statement", "instance", "seq", "id",
)  # fmt: skip
FIELDS = OFTEN + SELDOM


def filter_of(query: Mapping[str, str]) -> Filter:
    """Makes the filter that a query string describes. Raises ConfigError, which names the part that cannot be read."""
    given: dict[str, Any] = {name: query.get(name) or None for name in FIELDS}
    outcome = given["outcome"]
    given["outcome"] = tuple(part.strip() for part in outcome.split(",") if part.strip()) if outcome else ()
    for name in ("since", "until"):
        given[name] = moment(name, query[name]) if query.get(name) else None
    wanted = Filter(**given)
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise ConfigError("since, until: the first is not before the second, so that no time is between them")
    wanted.conditions()
    return wanted


def query_of(query: Mapping[str, str]) -> dict[str, str]:
    """Gives the parts of a query string that make a filter."""
    return {name: query[name] for name in ("since", "until", *FIELDS) if query.get(name)}
