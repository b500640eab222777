"""Finds the names in SQL that PostgreSQL would look up through search_path: operators, functions, types, relations, and
syntax that stands for them.

What it reads: statements and PL/pgSQL bodies, with PostgreSQL's own parser. It proves nothing of a name that is put in
at run time."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pglast
from pglast import ast as tree
from pglast.enums import A_Expr_Kind, SubLinkType

SRC = Path(__file__).parents[2] / "src" / "secretproxy"
# Stands where a text is put in at run time.
HOLE = "put_in_at_run_time"
_STARTS = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*\(*(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|CREATE|ALTER|DROP|GRANT|REVOKE|COPY|LOCK|CALL|DO|SET|RESET|NOTIFY|"
    r"LISTEN|COMMENT ON|TRUNCATE|VALUES|DECLARE|FETCH|EXPLAIN|REASSIGN|ANALYZE|VACUUM|CLUSTER|REINDEX)\s+[\"'$A-Za-z_(*{1]"
)  # fmt: skip
_SYNTAX = {
    A_Expr_Kind.AEXPR_IN: "IN", A_Expr_Kind.AEXPR_LIKE: "LIKE", A_Expr_Kind.AEXPR_ILIKE: "ILIKE", A_Expr_Kind.AEXPR_SIMILAR: "SIMILAR TO",
    A_Expr_Kind.AEXPR_BETWEEN: "BETWEEN", A_Expr_Kind.AEXPR_NOT_BETWEEN: "NOT BETWEEN", A_Expr_Kind.AEXPR_BETWEEN_SYM: "BETWEEN SYMMETRIC",
    A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM: "NOT BETWEEN SYMMETRIC", A_Expr_Kind.AEXPR_NULLIF: "NULLIF", A_Expr_Kind.AEXPR_DISTINCT: "IS DISTINCT FROM",
    A_Expr_Kind.AEXPR_NOT_DISTINCT: "IS NOT DISTINCT FROM",
}  # fmt: skip
_NAMES_BY_TEXT = {"regclass", "regtype", "regproc", "regprocedure", "regoper", "regoperator", "regcollation"}


@dataclass(frozen=True)
class Found:
    """A name, or syntax that stands for an operator, at a character of a text."""

    name: str
    at: int
    kind: str


def _strings(value: Any) -> list[str]:
    return [part.sval for part in value or () if isinstance(part, tree.String)]


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple | list):
        for part in node:
            yield from _nodes(part)
    elif isinstance(node, tree.Node):
        yield node
        for name in node:
            yield from _nodes(getattr(node, name))


def in_statement(text: str, functions: bool = True) -> list[Found]:
    """Gives what is unqualified in one or more statements. Raises pglast's ParseError."""
    found: list[Found] = []
    raw = text.encode()
    for statement in pglast.parse_sql(text):
        start = statement.stmt_location or 0
        found += _in_tree(statement.stmt, start, raw)
        if functions:
            end = start + (statement.stmt_len or len(raw) - start)
            found += _in_bodies(statement.stmt, raw[start:end].decode(), start)
    return found


def _in_tree(root: Any, start: int, raw: bytes) -> Iterator[Found]:
    nodes = list(_nodes(root))
    own = {node.ctename for node in nodes if isinstance(node, tree.CommonTableExpr)}
    for node in nodes:
        at = getattr(node, "location", None)
        at = start if at is None or at < 0 else at
        if (
            isinstance(node, tree.RangeVar)
            and node.schemaname is None
            and node.relname not in own
            and HOLE not in node.relname
        ):
            if (
                not isinstance(root, tree.CreateStmt)
                or root.relation.relpersistence != "t"
                or node is not root.relation
            ):
                yield Found(node.relname, at, "relation")
        elif isinstance(node, tree.FuncCall):
            yield from _name(node.funcname, at, "function")
            if node.funcname and _strings(node.funcname)[-1] in {f"to_{kind}" for kind in _NAMES_BY_TEXT}:
                yield from _text(node.args[0], at)
        elif isinstance(node, tree.A_Expr):
            if node.kind in _SYNTAX:
                yield Found(_SYNTAX[node.kind], at, "syntax")
            else:
                yield from _name(node.name, at, "operator")
        elif isinstance(node, tree.SubLink) and node.subLinkType in (
            SubLinkType.ANY_SUBLINK,
            SubLinkType.ALL_SUBLINK,
            SubLinkType.ROWCOMPARE_SUBLINK,
        ):
            if node.operName is None:
                yield Found("IN (SELECT", at, "syntax")
            else:
                yield from _name(node.operName, at, "operator")
        elif isinstance(node, tree.TypeName):
            if node.names and node.typemod != "%" and not node.pct_type:
                yield from _name(node.names, at, "type")
                # A keyword for this parser, but before PostgreSQL 16 a name as any other.
                if raw[at : at + 4].lower() == b"json" and raw[at : at + 5].lower() != b"jsonb":
                    yield Found("json", at, "type")
        elif (
            isinstance(node, tree.TypeCast)
            and node.typeName.names
            and _strings(node.typeName.names)[-1] in _NAMES_BY_TEXT
        ):
            yield from _text(node.arg, at)
        elif isinstance(node, tree.CaseExpr) and node.arg is not None:
            yield Found("CASE with an operand", at, "syntax")
        elif isinstance(node, tree.JoinExpr) and (node.usingClause or node.isNatural):
            yield Found("USING", start, "syntax")
        elif isinstance(node, tree.SortBy) and node.useOp:
            yield from _name(node.useOp, at, "operator")
        elif isinstance(node, tree.CollateClause):
            yield from _name(node.collname, at, "collation")
        elif isinstance(node, tree.IndexElem):
            if node.opclass:
                yield from _name(node.opclass, at, "operator class")
        elif isinstance(node, tree.CreateFunctionStmt | tree.CreateTrigStmt | tree.CreateEventTrigStmt):
            yield from _name(node.funcname, at, "function")
        elif isinstance(node, tree.ObjectWithArgs):
            yield from _name(node.objname, at, "object")
        elif isinstance(node, tree.CreateEnumStmt | tree.CreateRangeStmt):
            yield from _name(node.typeName, at, "type")
        elif isinstance(node, tree.CreateDomainStmt):
            yield from _name(node.domainname, at, "type")
        elif isinstance(node, tree.DropStmt):
            kinds = ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_SEQUENCE", "OBJECT_INDEX", "OBJECT_MATVIEW")
            if node.removeType.name in kinds:
                for one in node.objects:
                    yield from _name(one, at, "relation")


def _name(parts: Any, at: int, kind: str) -> Iterator[Found]:
    names = _strings(parts)
    if len(names) == 1 and HOLE not in names[0]:
        yield Found(names[0], at, kind)


def _text(argument: Any, at: int) -> Iterator[Found]:
    if (
        (
            isinstance(argument, tree.A_Const)
            and isinstance(argument.val, tree.String)
            and "." not in argument.val.sval
            and HOLE not in argument.val.sval
        )
        and not argument.val.sval.isdigit()
        and argument.val.sval != "-"
    ):
        yield Found(f"'{argument.val.sval}'", at, "name in a text")


def _in_bodies(statement: Any, text: str, start: int) -> Iterator[Found]:
    if isinstance(statement, tree.DoStmt | tree.CreateFunctionStmt):
        options = {
            option.defname: option.arg
            for option in (statement.args if isinstance(statement, tree.DoStmt) else statement.options or ())
        }
        body = options.get("as")
        if body is None:
            return
        body = body.sval if isinstance(body, tree.String) else _strings(body)[0]
        language = options["language"].sval if "language" in options else "plpgsql"
        at = start + len(text[: max(0, text.find(body))].encode())
        if language == "sql":
            for found in in_statement(body):
                yield Found(found.name, at + found.at, found.kind)
        elif language == "plpgsql":
            if isinstance(statement, tree.DoStmt):
                text = f"CREATE FUNCTION a.b() RETURNS void LANGUAGE plpgsql AS $hole_${body}$hole_$"
            for query in _plpgsql(text, body):
                yield Found(query.name, at + query.at, query.kind)


def _plpgsql(text: str, body: str) -> Iterator[Found]:
    for item in _objects(pglast.parse_plpgsql(_known_schemas(text, body))):
        for key, value in item.items():
            if key == "PLpgSQL_expr":
                query = value["query"]
                at = max(0, body.find(query))
                for found in in_fragment(query):
                    yield Found(found.name, len(body[:at].encode()) + found.at, found.kind)
    for section in re.finditer(r"\bDECLARE\b(.*?)\bBEGIN\b", body, re.DOTALL):
        for line in re.finditer(
            r"^\s*\w+\s+(?:CONSTANT\s+)?([a-z_][\w.]*(?:\[\])?)(?=[\s;(]|:=)(?!%)", section[1], re.MULTILINE
        ):
            if line[1] not in ("record", "cursor", "alias"):
                for found in in_statement(f"SELECT NULL::{line[1]}"):
                    yield Found(found.name, len(body[: section.start(1) + line.start(1)].encode()), found.kind)


def _known_schemas(text: str, body: str) -> str:
    """Gives the same with every type in a schema that the parser knows, which it is right for there."""
    start = text.find(body)
    schemas = re.compile(r"\b(?:secretproxy|secrets_schema|encrypted_secrets|jwt_public)\.(?=\w)")
    sections = re.sub(r"\bDECLARE\b.*?\bBEGIN\b", lambda found: schemas.sub("public.", found[0]), body, flags=re.DOTALL)
    return schemas.sub("public.", text[:start]) + sections + text[start + len(body) :]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from _objects(part)


def in_fragment(query: str) -> list[Found]:
    """Reads a statement, an expression or an assignment of PL/pgSQL, with the SQL that its texts hold for EXECUTE."""
    if re.fullmatch(r"\s*[\w.\"]+\s*", query):
        return []
    for prefix, rest in ((0, query), (1, "SELECT " + query), (2, re.sub(r"^[^:=]*:?=", "SELECT ", query, count=1))):
        try:
            found = in_statement(rest)
        except pglast.parser.ParseError:
            continue
        shift = (0, len("SELECT "), len(rest) - len(query))[prefix]
        dynamic = [inner for text in _texts(rest) for inner in in_dynamic(text)]
        return [Found(one.name, max(0, one.at - shift), one.kind) for one in found] + [
            Found(one.name, 0, "in a text: " + one.kind) for one in dynamic
        ]
    return [Found(query[:60], 0, "not readable")]


def _texts(query: str) -> list[str]:
    return [
        node.val.sval
        for node in _nodes(pglast.parse_sql(query))
        if isinstance(node, tree.A_Const) and isinstance(node.val, tree.String)
    ]


def in_dynamic(text: str) -> list[Found]:
    """Reads a text that EXECUTE or format() makes a statement of."""
    if not _STARTS.match(text):
        return []
    filled = re.sub(r"%(?:\d+\$)?[Is]", HOLE, re.sub(r"%(?:\d+\$)?L", f"'{HOLE}'", text)).replace("%%", "%")
    try:
        return in_statement(filled, functions=False)
    except pglast.parser.ParseError:
        return [] if _NO_STATEMENT.fullmatch(filled) else [Found(text[:60], 0, "not readable")]


# Sentences, beginnings and ends of statements, and statements over a kind of object that is put in.
_NO_STATEMENT = re.compile(
    rf"[^;]*[.]|\s*WITH GRANT OPTION|CREATE (?:UNLOGGED )?SEQUENCE|ALTER EXTENSION {HOLE} (?:ADD|DROP) {HOLE} {HOLE}"
)


# --- Python
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text in a Python module that is SQL, and the line that it begins on."""

    text: str
    line: int
    fragment: bool


def texts(path: Path) -> Iterator[Text]:
    """Gives every text of a module that is a statement or a condition, with what constants of the module put into
    it."""
    module_name = "secretproxy." + ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
    known = {
        name: value for name, value in vars(importlib.import_module(module_name)).items() if isinstance(value, str)
    }
    module = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        node.body[0].value
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    inside: set[ast.AST] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            inside |= {part for value in node.values for part in ast.walk(value)}
    for node in ast.walk(module):
        if node in documentation or node in inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(_piece(part, known) for part in node.values)
        else:
            continue
        filled = re.sub(r"\{\w*\}", HOLE, text)
        if _STARTS.match(filled) and _is_sql(filled):
            yield Text(filled, node.lineno, False)
        elif _CONDITION.search(filled) and not filled.isspace():
            yield Text(filled, node.lineno, True)


_CONDITION = re.compile(
    r"\b[a-z]\.[a-z_]+\s*(?:[=<>@|~+-]|OPERATOR|IS\b|IN\b|LIKE\b|::)|[)\]]::[a-z]|\b(?:FROM|JOIN) [a-z_]+\.[a-z_]+ [a-z]\b"
)


def _piece(part: ast.expr, known: dict[str, str]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id in known:
        return known[part.value.id]
    return HOLE


def _is_sql(text: str) -> bool:
    """Tells whether a text is SQL: English sentences begin with such words as well."""
    if re.match(r"\s*WITH (?!RECURSIVE\b|\w+\s*(?:\([^)]*\))?\s*AS\b)", text):
        return False
    return bool(re.search(r"[A-Z]{3}", text.lstrip()[:8]))


def in_python(text: Text) -> list[Found]:
    """Gives what is unqualified in a text of a Python module."""
    candidate = re.sub(r"\?", "NULL", text.text) if text.fragment else text.text
    candidate = candidate.replace(f"${HOLE}", "$1").replace(f"OPERATOR(pg_catalog.{HOLE})", "OPERATOR(pg_catalog.=)")
    tries = [candidate]
    if text.fragment:
        bare = re.sub(r"^\s*(?:AND|OR|WHERE)\b", "", candidate)
        tries = [f"SELECT {bare}", f"SELECT 1 {candidate}", f"SELECT 1 FROM a.b a {candidate}", f"{candidate} SELECT 1", candidate,
                 f"SELECT 1 FROM {bare}", f"SELECT 1 FROM a.b {bare} ON true", f"SELECT {candidate} 1",
                 f"WITH a AS (SELECT 1) {candidate} SELECT 1"]  # fmt: skip
    else:
        tries.append(f"SELECT {candidate}")
    for one in tries:
        for filled in _filled(one):
            try:
                return list(in_statement(filled))
            except (pglast.parser.ParseError, ValueError):
                continue
    return [Found(" ".join(text.text.split())[:60], 0, "not readable")]


def _filled(text: str) -> Iterator[str]:
    """Gives the same, and then with other texts for what is put in at run time: nothing, a query, a number."""
    yield text
    parts = text.split(HOLE)
    if 1 < len(parts) <= 8:
        for fillings in itertools.product((HOLE, "", f"SELECT {HOLE}", "1"), repeat=len(parts) - 1):
            yield "".join(itertools.chain.from_iterable(zip(parts, (*fillings, ""), strict=True)))
