"""What a PL/pgSQL body holds for the walk over parse trees: its statements and expressions as SQL, and its variables' types.

By libpg_query's PL/pgSQL parser. Pure, and does not know what is looked for.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pglast.parser

_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_DECLARED = r"""(?<![\w$"]){}"?\s+(?:constant\s+)?({}(?:\s*\.\s*{})*)[^;:=]*?(?:(?::=|=|default)([^;]*))?;"""


@dataclass(frozen=True, slots=True, repr=False)
class Block:
    """`statements`: SQL, and whether it is an expression that gives the text of another statement (EXECUTE)."""

    statements: tuple[tuple[str, bool], ...]
    types: tuple[tuple[str, ...], ...]


def as_do(code: str) -> str:
    """A DO statement of a block."""
    tag = "$b$"
    while tag in code:
        tag = f"$b{len(tag)}$"
    return f"DO {tag}{code}{tag}"


def read(statement: str) -> Block | None:
    """The body of a DO or a CREATE FUNCTION in PL/pgSQL; None where it does not parse."""
    try:
        functions = json.loads(pglast.parser.parse_plpgsql_json(statement))
    except Exception:
        return None
    statements: list[tuple[str, bool]] = []
    types: list[tuple[str, ...]] = []
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
                type_, value = _declared(statement, record.get("refname", ""))
                types.append(type_)
                if value:
                    statements.append((f"SELECT {value}", dynamic))
            for name, body in reversed(item.items()):
                if name != "PLpgSQL_expr":
                    # "query" of EXECUTE and of RETURN QUERY EXECUTE is an expression that gives a statement's text.
                    under = name in ("PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors", "dynquery")
                    pending.append((body, under or dynamic))
    return Block(tuple(statements), tuple(types))


def _declared(statement: str, name: str) -> tuple[tuple[str, ...], str]:
    """The type of a variable and what it starts with: the parser knows neither where the type is none of the built-in ones."""
    pattern = _DECLARED.format('"?' + re.escape(name).replace('"', '""'), _NAME, _NAME)
    found = re.search(pattern, statement, re.IGNORECASE)
    if found is None:
        return (), ""
    parts = re.findall(_NAME, found[1])
    return tuple(_plain(part) for part in parts), (found[2] or "").strip()


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name[:1] == '"' else name.lower()


def _as_sql(query: str, mode: int) -> str:
    """One SQL statement (mode 0), expression (2) or assignment (3 and up) of a block."""
    if mode == 2:
        return f"SELECT {query}"
    if mode >= 3:
        return "SELECT " + re.sub(r"\A.*?(?::=|=)", "", query, count=1, flags=re.DOTALL)
    return query
