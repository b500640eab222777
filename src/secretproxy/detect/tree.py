"""Walks a parse tree (libpg_query's JSON) for secret calls.

The walk is generic: it goes through every node of every kind, so that a call is found wherever the grammar lets an
expression stand, also in places that a later PostgreSQL adds. Node names are those of src/include/nodes/parsenodes.h.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pglast.parser

from secretproxy.detect import arguments
from secretproxy.detect.arguments import UNKNOWN, Argument
from secretproxy.detect.calls import Call
from secretproxy.detect.functions import NAMES, overloads
from secretproxy.detect.verdict import Found, SqlExecute

Node = dict[str, Any]

# Statements that define something: what they name will run later, when it is used.
DEFINING = frozenset(
    {
        "ViewStmt", "CreateFunctionStmt", "AlterFunctionStmt", "CreateTrigStmt", "CreateEventTrigStmt", "RuleStmt",
        "CreatePolicyStmt", "AlterPolicyStmt", "CreateStmt", "CreateForeignTableStmt", "AlterTableStmt", "IndexStmt",
        "CreateDomainStmt", "AlterDomainStmt", "DefineStmt", "CreateCastStmt", "CreateConversionStmt", "CreateOpClassStmt",
        "CreateTransformStmt", "CreatePublicationStmt", "AlterPublicationStmt", "CreateStatsStmt", "CreateRangeStmt",
        "RenameStmt", "AlterObjectSchemaStmt", "AlterObjectDependsStmt", "AlterOwnerStmt", "AlterOperatorStmt", "DropStmt",
        "GrantStmt", "CommentStmt", "SecLabelStmt", "AlterExtensionContentsStmt", "CreatePLangStmt", "CreateFdwStmt",
    }
)  # fmt: skip
_BODY_WORD = r"(?<![\w$])({})(?![\w$])"


@dataclass(frozen=True, slots=True)
class Monitored:
    """The schemas whose functions are secret functions, and the monitored tables as (schema, table)."""

    schemas: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]

    def function(self, parts: list[str]) -> tuple[str, str] | None:
        """(schema, name) where a function's name, qualified or not, may be a secret function's."""
        if not parts:
            return None
        name = parts[-1]
        if len(parts) == 1:
            return (self.schemas[0], name) if name in NAMES else None
        return (parts[-2], name) if parts[-2] in self.schemas else None

    def table(self, schema: str | None, name: str) -> str | None:
        for known_schema, known in self.tables:
            if known == name and schema in (None, known_schema):
                return f"{known_schema}.{known}"
        return None

    def calls_by_word(self, body: str) -> tuple[Call, ...]:
        """Opaque calls for names that stand in a text that has no parse tree."""
        names = "|".join(re.escape(name) for name in sorted(NAMES))
        found = re.findall(_BODY_WORD.format(names), body, re.IGNORECASE)
        schemas = "|".join(re.escape(schema) for schema in self.schemas)
        qualified = re.findall(rf'(?<![\w$])"?({schemas})"?\s*\.\s*"?([\w$]+)', body, re.IGNORECASE)
        calls = {(self.schemas[0], name.lower()) for name in found}
        calls |= {(schema.lower(), name.lower()) for schema, name in qualified}
        return tuple(Call(schema, name, opaque=True) for schema, name in sorted(calls))


def walk_statement(statement: Node, monitored: Monitored, found: Found) -> None:
    """Walks one top-level statement (`{"SelectStmt": {...}}`)."""
    for kind, body in statement.items():
        if kind == "PrepareStmt":
            inner = Found()
            walk_statement(body.get("query", {}), monitored, inner)
            if inner.calls:
                found.prepares.append((body.get("name", ""), tuple(inner.calls)))
            _merge(found, inner)
        elif kind == "DeclareCursorStmt":
            inner = Found()
            _walk(body.get("query", {}), monitored, inner)
            if inner.calls:
                found.cursors.append((body.get("portalname", ""), tuple(inner.calls)))
            _merge(found, inner)
        elif kind == "FetchStmt":
            found.fetches.append(body.get("portalname", ""))
        elif kind == "DeallocateStmt":
            found.deallocates.append(body.get("name"))
        elif kind == "ClosePortalStmt":
            found.closes.append(body.get("portalname"))
        elif kind in DEFINING:
            _define(kind, body, monitored, found)
        else:
            _walk(statement, monitored, found)


def _merge(found: Found, inner: Found) -> None:
    found.calls += inner.calls
    found.definitions += inner.definitions
    found.tables += inner.tables
    found.executes += inner.executes


def _define(kind: str, body: Node, monitored: Monitored, found: Found) -> None:
    """A definition: calls in its expressions, functions it names, and bodies given as text."""
    inner = Found()
    _walk(body, monitored, inner)
    found.tables += inner.tables
    found.definitions += inner.definitions
    found.definitions += [call.resolve().function for call in inner.calls]
    for parts in _named_functions(body):
        known = monitored.function(parts)
        if known is not None and kind != "CreateFunctionStmt":
            found.definitions.append(_signature(*known))
    if kind == "CreateFunctionStmt":
        known = monitored.function(_strings(body.get("funcname", [])))
        if known is not None and len(body.get("funcname", [])) > 1:
            found.definitions.append(_signature(*known))
        for option in body.get("options", []):
            element = option.get("DefElem", {})
            if element.get("defname") == "as":
                for text in _texts(element.get("arg")):
                    found.definitions += [call.resolve().function for call in monitored.calls_by_word(text)]


def _signature(schema: str, name: str) -> str:
    known = overloads(name)
    return known[0].signature(schema) if len(known) == 1 else f"{schema}.{name}"


def _walk(node: Any, monitored: Monitored, found: Found) -> None:
    """Every node below `node`, without recursion: a deep expression must not end the walk."""
    pending: list[Any] = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
            continue
        if not isinstance(item, dict):
            continue
        for kind, body in reversed(item.items()):
            if kind in ("FuncCall", "funccall") and isinstance(body, dict):
                _call(body, monitored, found)
            elif kind in ("RangeVar", "relation", "rel") and isinstance(body, dict) and "relname" in body:
                table = monitored.table(body.get("schemaname"), body["relname"])
                if table is not None:
                    found.tables.append(table)
            elif kind == "DoStmt":
                _do(body, monitored, found)
                continue
            elif kind == "ExecuteStmt":
                given = tuple(_argument(parameter) for parameter in body.get("params", ()))
                found.executes.append(SqlExecute(body.get("name", ""), given))
            elif kind == "MultiAssignRef" and isinstance(body, dict) and body.get("colno", 1) > 1:
                continue  # (a, b) = (SELECT ...): the source stands in the tree once for each column
            elif kind in ("PrepareStmt", "DeclareCursorStmt"):
                walk_statement({kind: body}, monitored, found)
                continue
            if isinstance(body, dict | list):
                pending.append(body)


def _call(body: Node, monitored: Monitored, found: Found) -> None:
    known = monitored.function(_strings(body.get("funcname", [])))
    if known is None:
        return
    positional: list[Argument] = []
    named: list[tuple[str, Argument]] = []
    for argument in body.get("args", ()):
        if "NamedArgExpr" in argument:
            named.append((argument["NamedArgExpr"].get("name", ""), _argument(argument)))
        else:
            positional.append(_argument(argument))
    if body.get("func_variadic"):
        positional = [UNKNOWN] * len(positional)
    found.calls.append(Call(known[0], known[1], tuple(positional), tuple(named)))


def _argument(node: Node) -> Argument:
    try:
        return arguments.read(node)
    except RecursionError:
        return UNKNOWN


def _do(body: Node, monitored: Monitored, found: Found) -> None:
    language, code = "plpgsql", ""
    for option in body.get("args", []):
        element = option.get("DefElem", {})
        if element.get("defname") == "as":
            code = "".join(_texts(element.get("arg")))
        elif element.get("defname") == "language":
            language = "".join(_texts(element.get("arg")))
    if language.lower() != "plpgsql" or not _plpgsql(code, monitored, found):
        found.calls += monitored.calls_by_word(code)


def _plpgsql(code: str, monitored: Monitored, found: Found) -> bool:
    """The calls of a PL/pgSQL block, statement by statement; False where it does not parse."""
    tag = "$b$"
    while tag in code:
        tag = f"$b{len(tag)}$"
    try:
        functions = json.loads(pglast.parser.parse_plpgsql_json(f"DO {tag}{code}{tag}"))
    except Exception:
        return False
    inner = Found()
    for query, mode, dynamic in _expressions(functions):
        if not _plpgsql_expression(query, mode, monitored, inner, dynamic=dynamic):
            inner.calls += monitored.calls_by_word(query)
    _merge(found, inner)
    return True


def _expressions(functions: Any) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = []
    pending: list[tuple[Any, bool]] = [(functions, False)]
    while pending:
        item, dynamic = pending.pop()
        if isinstance(item, list):
            pending.extend((part, dynamic) for part in reversed(item))
        elif isinstance(item, dict):
            expression = item.get("PLpgSQL_expr")
            if isinstance(expression, dict):
                found.append((expression.get("query", ""), expression.get("parseMode", 0), dynamic))
            for kind, body in reversed(item.items()):
                if kind != "PLpgSQL_expr":
                    # "query" of EXECUTE and of RETURN QUERY EXECUTE is an expression that gives a statement's text.
                    pending.append(
                        (
                            body,
                            kind in ("PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors", "dynquery") or dynamic,
                        )
                    )
    return found


def _plpgsql_expression(query: str, mode: int, monitored: Monitored, found: Found, *, dynamic: bool) -> bool:
    """One SQL statement (mode 0), expression (2) or assignment (3 and up) of a block; variables are unknown arguments."""
    if mode == 2:
        query = f"SELECT {query}"
    elif mode >= 3:
        query = "SELECT " + re.sub(r"\A.*?(?::=|=)", "", query, count=1, flags=re.DOTALL)
    try:
        statements = json.loads(pglast.parser.parse_sql_json(query)).get("stmts", [])
    except Exception:
        return False
    for statement in statements:
        walk_statement(statement.get("stmt", {}), monitored, found)
        if dynamic:
            _dynamic_text(statement, monitored, found)
    return True


def _dynamic_text(statement: Any, monitored: Monitored, found: Found) -> None:
    """Constants that EXECUTE is given: where one is a statement itself, its calls (their parameters are unknown)."""
    pending = [statement]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            constant = item.get("A_Const")
            text = constant.get("sval", {}).get("sval", "") if isinstance(constant, dict) else ""
            if text:
                inner = Found()
                if _plpgsql_expression(text, 0, monitored, inner, dynamic=False):
                    _merge(found, inner)
            pending.extend(value for value in item.values() if isinstance(value, dict | list))


def _strings(nodes: list[Node]) -> list[str]:
    return [node["String"].get("sval", "") for node in nodes if "String" in node]


def _texts(node: Any) -> list[str]:
    if not isinstance(node, dict):
        return []
    if "String" in node:
        return [node["String"].get("sval", "")]
    return [text for item in node.get("List", {}).get("items", []) for text in _texts(item)]


def _named_functions(node: Any) -> list[list[str]]:
    """Functions named as objects: ObjectWithArgs, a trigger's funcname, a DefineStmt's procedure."""
    names: list[list[str]] = []
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            for key in ("objname", "funcname"):
                if isinstance(item.get(key), list):
                    names.append(_strings(item[key]))
            type_name = item.get("TypeName")
            if isinstance(type_name, dict):
                names.append(_strings(type_name.get("names", [])))
            pending.extend(value for value in item.values() if isinstance(value, dict | list))
    return names
