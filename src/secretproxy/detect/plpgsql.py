"""Reads PL/pgSQL bodies for the walk over parse trees: statements and expressions as SQL, and the variables' types.

By libpg_query's PL/pgSQL parser. Pure, and does not know what is looked for.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pglast.parser

_NAME = r'(?:"(?:[^"]|"")++"|[\w$]++)'
_WORD = re.compile(_NAME)
_DECLARED = re.compile(
    rf"{_NAME}\s++(?:constant\s++)?({_NAME}(?:\s*+\.\s*+{_NAME})*+)[^;:=]*?(?:(?::=|=|default)"
    r"""((?:[^;'"]++|'[^']*+'|"[^"]*+")*+))?;""",
    re.IGNORECASE,
)
# A body with more statements and declarations than this, or with more variables of types that are not built in, is too
# hard: the parser looks each name up in all variables. A declaration ends so many characters behind its name, and is
# looked for so often.
MOST_PARTS, MOST_VARIABLES, MOST_DECLARED, MOST_LOOKS = 2000, 500, 1024, 2000


@dataclass(frozen=True, slots=True, repr=False)
class Block:
    """`statements`: SQL, and whether it is an expression that gives the text of another statement (EXECUTE)."""

    statements: tuple[tuple[str, bool], ...]
    types: tuple[tuple[str, ...], ...]


def as_do(code: str) -> str:
    """Makes a DO statement of a block."""
    tag = "$b$"
    while tag in code:
        tag = f"$b{len(tag)}$"
    return f"DO {tag}{code}{tag}"


def read(statement: str) -> Block | None:
    """Reads the PL/pgSQL body of a DO or a CREATE FUNCTION; None if it does not parse, or would take too long."""
    if statement.count(";") > MOST_PARTS:
        return None
    try:
        functions = json.loads(pglast.parser.parse_plpgsql_json(statement))
    except Exception:
        return None
    statements: list[tuple[str, bool]] = []
    types: list[tuple[str, ...]] = []
    # By name and number: the tree has a variable again where it is used.
    records: dict[tuple[str, int], bool] = {}
    pending: list[tuple[Any, bool]] = [(functions, False)]
    while pending:
        item, dynamic = pending.pop()
        if isinstance(item, list):
            pending.extend((part, dynamic) for part in reversed(item))
        elif isinstance(item, dict):
            expression = item.get("PLpgSQL_expr")
            if isinstance(expression, dict):
                statements.append((_as_sql(expression.get("query", ""), expression.get("parseMode", 0)), dynamic))
            record = item.get("PLpgSQL_rec")
            if isinstance(record, dict) and record.get("lineno"):
                records.setdefault((record.get("refname", ""), record.get("dno", 0)), dynamic)
            for name, body in reversed(item.items()):
                if name != "PLpgSQL_expr":
                    # "query" of EXECUTE and of RETURN QUERY EXECUTE is an expression that gives a statement's text.
                    under = name in ("PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors", "dynquery")
                    pending.append((body, under or dynamic))
    if len(records) > MOST_VARIABLES:
        return None
    declared = _declarations(statement, {name for name, _ in records}) if records else {}
    if declared is None:
        return None
    for (name, _), dynamic in records.items():
        # Of several variables of one name each is the next one.
        found = declared[name].pop(0) if len(declared[name]) > 1 else declared[name][0]
        types.append(tuple(_plain(part) for part in _WORD.findall(found[1])))
        value = (found[2] or "").strip()
        if value:
            statements.append((f"SELECT {value}", dynamic))
    return Block(tuple(statements), tuple(types))


def _declarations(statement: str, names: set[str]) -> dict[str, list[re.Match[str]]] | None:
    """Finds where each variable may be declared, with its type and initial value, in one pass over the text.

    The parser knows neither if the type is not a built-in one. None if a declaration is not understood.
    """
    found: dict[str, list[re.Match[str]]] = {name: [] for name in names}
    looks = 0
    for word in _WORD.finditer(statement):
        name = _plain(word[0])
        if name in names:
            looks += 1
            if looks > MOST_LOOKS:
                return None
            declared = _DECLARED.match(statement, word.start(), word.start() + MOST_DECLARED)
            if declared is not None:
                found[name].append(declared)
    return found if all(found.values()) else None


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name[:1] == '"' else name.lower()


def _as_sql(query: str, mode: int) -> str:
    """Makes one SQL statement (mode 0), expression (2) or assignment (3 and up) of a block."""
    if mode == 2:
        return f"SELECT {query}"
    if mode >= 3:
        return "SELECT " + re.sub(r"\A.*?(?::=|=)", "", query, count=1, flags=re.DOTALL)
    return query
