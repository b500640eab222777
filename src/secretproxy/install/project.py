"""The sqitch project as the package carries it: the plan's changes in order and their scripts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pglast.parser

DIRECTORY = Path(__file__).parent.parent / "sql"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: a script for each direction, to be run as it stands or in a transaction of the caller's."""

    name: str

    def script(self, kind: str) -> str:
        return (DIRECTORY / kind / f"{self.name}.sql").read_text(encoding="utf-8")

    def statements(self, kind: str) -> str:
        """Gives the script without its own BEGIN and COMMIT or ROLLBACK."""
        return re.sub(r"^(BEGIN|COMMIT|ROLLBACK);$", "", self.script(kind), flags=re.MULTILINE)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.script("deploy").encode()).hexdigest()


@cache
def changes() -> tuple[Change, ...]:
    """Gives the changes in the order of the plan (sqitchchanges(7))."""
    names = []
    for line in (DIRECTORY / "sqitch.plan").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words and not words[0].startswith(("%", "#", "@")):
            names.append(words[0])
    return tuple(Change(name) for name in names)


@cache
def function_bodies() -> dict[tuple[str, str], set[str]]:
    """Gives the SHA-256 of the bodies of each function that the scripts create, by (schema, name); overloads share a
    set.
    """
    return {name: bodies for name, (_, bodies) in _functions().items() if bodies}


@cache
def testifying_bodies() -> dict[tuple[str, str], set[str]]:
    """Gives the same for only those scripts that create the testifying functions, in a fraction of the time."""
    makers = [change for change in changes() if change.name in ("testimony", "secrets_table", "encrypted_secrets")]
    return {name: bodies for name, (_, bodies) in _functions_of(makers).items() if bodies}


def maker(schema: str, name: str) -> str | None:
    """Gives the name of the change that creates the function last, or None if none of ours does."""
    found = _functions().get((schema, name))
    return found[0] if found else None


@cache
def _functions() -> dict[tuple[str, str], tuple[str, set[str]]]:
    """Maps (schema, name) to the change that creates the function and the SHA-256 of its bodies."""
    return _functions_of(changes())


def _functions_of(makers: Iterable[Change]) -> dict[tuple[str, str], tuple[str, set[str]]]:
    functions: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for change in makers:
        for raw in pglast.parser.parse_sql(change.script("deploy")):
            statement: Any = raw.stmt
            if type(statement).__name__ != "CreateFunctionStmt":
                continue
            names = [part.sval for part in statement.funcname]
            key = (names[0], names[-1])
            bodies = functions[key][1] if key in functions else set()
            bodies |= {
                hashlib.sha256(option.arg[0].sval.encode()).hexdigest()
                for option in statement.options or ()
                if option.defname == "as"
            }
            functions[key] = (change.name, bodies)
    return functions
