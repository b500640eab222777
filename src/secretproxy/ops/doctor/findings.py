"""Defines a finding. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know. `name` stays the same between versions; `fix` is SQL, a setting or a command."""

    name: str
    severity: str
    what: str
    why: str
    fix: str
