"""Walks a parse tree (libpg_query's JSON) for secret calls.

The walk is generic: it goes through every node of every kind, so that a call is found wherever the grammar lets an
expression stand, also in places that a later PostgreSQL adds. Node names are those of src/include/nodes/parsenodes.h.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pglast.parser

from secretproxy.detect import arguments, dependencies, plpgsql
from secretproxy.detect.arguments import UNKNOWN, Argument
from secretproxy.detect.calls import Call
from secretproxy.detect.dependencies import NO_DEPENDENCIES, Dependencies
from secretproxy.detect.functions import NAMES, overloads
from secretproxy.detect.verdict import Found, SqlExecute, kept, once

Node = dict[str, Any]

# Statements that define something: what they name will run later, when it is used.
DEFINING = frozenset(
    {
        "ViewStmt", "CreateFunctionStmt", "AlterFunctionStmt", "CreateTrigStmt", "CreateEventTrigStmt", "RuleStmt",
        "CreatePolicyStmt", "AlterPolicyStmt", "CreateStmt", "CreateForeignTableStmt", "AlterTableStmt", "IndexStmt",
        "CreateDomainStmt", "AlterDomainStmt", "DefineStmt", "CreateCastStmt", "CreateConversionStmt",
            "CreateOpClassStmt",
        "CreateTransformStmt", "CreatePublicationStmt", "AlterPublicationStmt", "CreateStatsStmt", "CreateRangeStmt",
        "RenameStmt", "AlterObjectSchemaStmt", "AlterObjectDependsStmt", "AlterOwnerStmt", "AlterOperatorStmt",
            "DropStmt",
        "GrantStmt", "CommentStmt", "SecLabelStmt", "AlterExtensionContentsStmt", "CreatePLangStmt", "CreateFdwStmt",
    }
)  # fmt: skip
# Of these, those that say which function shall run when something is used.
_OVER_A_FUNCTION = frozenset(
    {"CreateTrigStmt", "CreateEventTrigStmt", "DefineStmt", "CreateCastStmt", "CreateOpClassStmt"}
)
# The operation of a statement on the relation in its `relation`.
_USES = {
    "InsertStmt": dependencies.INSERT, "UpdateStmt": dependencies.UPDATE, "DeleteStmt": dependencies.DELETE,
        "MergeStmt": 0,
    "CopyStmt": dependencies.SELECT,
    "RefreshMatViewStmt": dependencies.MAINTAIN, "ReindexStmt": dependencies.MAINTAIN,
    "ClusterStmt": dependencies.MAINTAIN,
    "VacuumRelation": dependencies.MAINTAIN,
}  # fmt: skip
_MERGED = {"CMD_INSERT": dependencies.INSERT, "CMD_UPDATE": dependencies.UPDATE, "CMD_DELETE": dependencies.DELETE}
_COMMANDS = re.compile(
    r"(Create|Define|View|Index|Rule|Alter|Rename|Drop|Grant|Comment|SecLabel|Refresh|Reindex|Import|Composite)"
)
_WORDS = {
    "Define": "CREATE",
    "View": "CREATE",
    "Index": "CREATE",
    "Rule": "CREATE",
    "Composite": "CREATE",
    "Rename": "ALTER",
    "SecLabel": "SECURITY",
}
_NOTHING: frozenset[str] = frozenset()
# Statements inside statements (DO, EXECUTE of a constant): each level reads its content again. Below this, words
# decide.
MOST_LEVELS = 4
# A WITH of more tables than this hides none of them from one another.
MOST_SCOPES = 64
_BODY_WORD = r"(?<![\w$])({})(?![\w$])"


@dataclass(frozen=True, slots=True)
class Monitored:
    """The schemas whose functions are secret functions, the monitored tables as (schema, table), and what leads to a
    secret function."""

    schemas: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]
    dependencies: Dependencies = NO_DEPENDENCIES

    def function(self, parts: list[str]) -> tuple[str, str] | None:
        """Gives (schema, name) if a function's name, qualified or not, may be a secret function's."""
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
        """Opaque calls for the names in a text without a parse tree."""
        names = "|".join(re.escape(name) for name in sorted(NAMES))
        found = re.findall(_BODY_WORD.format(names), body, re.IGNORECASE)
        schemas = "|".join(re.escape(schema) for schema in self.schemas)
        qualified = re.findall(rf'(?<![\w$])"?({schemas})"?\s*\.\s*"?([\w$]+)', body, re.IGNORECASE)
        calls = {(self.schemas[0], name.lower()) for name in found}
        calls |= {(schema.lower(), name.lower()) for schema, name in qualified}
        return once(
            [*(Call(schema, name, opaque=True) for schema, name in sorted(calls)), *self.dependencies.by_word(body)]
        )


def walk_statement(statement: Node, monitored: Monitored, found: Found) -> None:
    """Walks one top-level statement (`{"SelectStmt": {...}}`)."""
    for kind, body in statement.items():
        if monitored.dependencies.events:
            command = _COMMANDS.match(kind)
            if command is not None:
                found.calls += monitored.dependencies.event(_WORDS.get(command[1], command[1].upper()))
        if kind == "PrepareStmt":
            inner = Found(level=found.level)
            walk_statement(body.get("query", {}), monitored, inner)
            if inner.calls:
                found.prepares.append((body.get("name", ""), kept(inner.calls)))
            _merge(found, inner)
        elif kind == "DeclareCursorStmt":
            inner = Found(level=found.level)
            _walk(body.get("query", {}), monitored, inner)
            if inner.calls:
                found.cursors.append((body.get("portalname", ""), kept(inner.calls)))
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
    """Reads a definition: calls in its expressions, functions it names, and bodies given as text."""
    inner = Found(level=found.level)
    _walk(body, monitored, inner)
    found.tables += inner.tables
    found.definitions += inner.definitions
    found.definitions += [call.resolve().function for call in inner.calls]
    for parts in _named_functions(body):
        known = monitored.function(parts)
        if known is not None and kind != "CreateFunctionStmt":
            found.definitions.append(_signature(*known))
        elif kind in _OVER_A_FUNCTION:
            found.definitions += [call.resolve().function for call in monitored.dependencies.function(parts, None)]
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
    """Looks at every node below `node`, without recursion: a deep expression must not end the walk.

    With each node goes its scope, the names of the common table expressions that hide relations there.
    """
    knows_more = bool(monitored.dependencies)
    pending: list[tuple[Any, frozenset[str]]] = [(node, _NOTHING)]
    while pending:
        item, scope = pending.pop()
        if isinstance(item, list):
            # A constant has nothing below it.
            pending += [(part, scope) for part in reversed(item) if not (isinstance(part, dict) and "A_Const" in part)]
            continue
        if not isinstance(item, dict):
            continue
        if knows_more and "withClause" in item:
            scope = _common_tables(item["withClause"], scope, pending)
        for kind, body in reversed(item.items()):
            if not isinstance(body, dict | list):
                continue
            look = _NODES.get(kind)
            if look is None:
                if knows_more:
                    _find_dependency(kind, body, monitored, found)
            elif not look(kind, body, scope, monitored, found):
                continue
            pending.append((body, scope))


def _of_no_kind(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    if monitored.dependencies:
        _find_dependency(kind, body, monitored, found)
    return True


def _function_call(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    if not isinstance(body, dict):
        return _of_no_kind(kind, body, scope, monitored, found)
    _call(body, monitored, found)
    return True


def _table(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    if not isinstance(body, dict) or "relname" not in body:
        return _of_no_kind(kind, body, scope, monitored, found)
    table = monitored.table(body.get("schemaname"), body["relname"])
    if table is not None:
        found.tables.append(table)
    if kind == "RangeVar" and monitored.dependencies:
        _relation(body, dependencies.SELECT, scope, monitored, found)
    return False


def _do_block(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    _do(body, monitored, found)
    return False


def _sql_execute(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    given = tuple(_argument(parameter) for parameter in body.get("params", ()))
    found.executes.append(SqlExecute(body.get("name", ""), given))
    return True


def _assignment(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    if isinstance(body, dict) and body.get("colno", 1) > 1:
        return False  # (a, b) = (SELECT ...): the tree has the source once for each column
    return _of_no_kind(kind, body, scope, monitored, found)


def _statement(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    walk_statement({kind: body}, monitored, found)
    return False


def _leaf(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    return False


def _with(kind: str, body: Any, scope: frozenset[str], monitored: Monitored, found: Found) -> bool:
    # With dependencies, `_common_tables` has put its queries up to be walked.
    return not monitored.dependencies


# What is done with nodes of a kind; each says whether what is below them is walked too.
_NODES: dict[str, Callable[[str, Any, frozenset[str], Monitored, Found], bool]] = {
    "FuncCall": _function_call, "funccall": _function_call, "RangeVar": _table, "relation": _table, "rel": _table,
        "DoStmt": _do_block,
    "ExecuteStmt": _sql_execute, "MultiAssignRef": _assignment, "PrepareStmt": _statement,
    "DeclareCursorStmt": _statement,
    "A_Const": _leaf, "lockingClause": _leaf, "withClause": _with,
}  # fmt: skip


def _common_tables(clause: Node, scope: frozenset[str], pending: list[tuple[Any, frozenset[str]]]) -> frozenset[str]:
    """Puts the queries of a WITH up to be walked, each in its own scope, and gives the scope of what stands under
    it."""
    parts = [part["CommonTableExpr"] for part in clause.get("ctes", ()) if "CommonTableExpr" in part]
    below = scope | {part.get("ctename", "") for part in parts}
    seen = below if clause.get("recursive") else scope
    for part in parts:
        pending.append((part, seen))
        if seen is not below and len(parts) <= MOST_SCOPES:
            seen = seen | {part.get("ctename", "")}
    return below


def _relation(body: Node, uses: int, scope: frozenset[str], monitored: Monitored, found: Found) -> None:
    schema, name = body.get("schemaname"), body["relname"]
    if schema is not None or name not in scope:
        found.calls += monitored.dependencies.relation([name] if schema is None else [schema, name], uses)


def _find_dependency(kind: str, body: Any, monitored: Monitored, found: Found) -> None:
    """Finds what leads to a secret function from a node that is not a call of one.

    These are relations written to, operators, types, row.function.
    """
    known = monitored.dependencies
    if kind in _USES:
        uses = _USES[kind]
        if kind == "CopyStmt" and body.get("is_from"):
            uses = dependencies.INSERT
        elif kind == "InsertStmt" and body.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE":
            uses |= dependencies.UPDATE
        for clause in body.get("mergeWhenClauses", ()):
            uses |= _MERGED.get(clause.get("MergeWhenClause", {}).get("commandType"), 0)
        if "relname" in body.get("relation", {}):
            _relation(body["relation"], uses, _NOTHING, monitored, found)
    elif kind == "TruncateStmt":
        for relation in body.get("relations", ()):
            _relation(relation["RangeVar"], dependencies.TRUNCATE, _NOTHING, monitored, found)
    elif kind == "A_Expr":
        found.calls += known.operator(_strings(body.get("name", [])))
    elif kind in ("operName", "useOp"):
        found.calls += known.operator(_strings(body))
    elif kind in ("typeName", "TypeName"):
        found.calls += known.type(_strings(body.get("names", [])))
    elif kind == "ColumnRef":
        fields = _strings(body.get("fields", []))
        if len(fields) > 1:
            found.calls += known.attribute(fields[-1])
    elif kind == "indirection":
        for field in _strings(body):
            found.calls += known.attribute(field)


def _call(body: Node, monitored: Monitored, found: Found) -> None:
    parts = _strings(body.get("funcname", []))
    known = monitored.function(parts)
    if known is None:
        if monitored.dependencies:
            variadic = body.get("func_variadic") or body.get("agg_within_group")
            found.calls += monitored.dependencies.function(parts, None if variadic else len(body.get("args", ())))
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


# What a statement that only reads may consist of: the keys of its nodes and the types of its casts. A type of another
# schema that has one of these names runs its own code before the call, not with its result, and testimony shows what
# that calls; the names of such types are among the dependencies where they lead to a secret function.
_READING_SELECT = frozenset({"targetList", "fromClause", "limitOption", "op"})
_READING_CALL = frozenset({"funcname", "args", "funcformat", "location"})
_READING_TYPES = (["uuid"], ["text"], ["pg_catalog", "uuid"], ["pg_catalog", "text"], ["pg_catalog", "varchar"])
_READER = ["encrypted_secrets", "secrets_getter"]
# Calls of one statement that only reads.
_MOST_READS = 16


def only_reads(statement: Node, monitored: Monitored) -> bool:
    """Tells whether a statement is one SELECT of nothing but readers of secrets, with constants or parameters.

    Such a statement changes nothing, and runs nothing else. In doubt, it is not one.
    """
    select = statement.get("SelectStmt")
    if not isinstance(select, dict) or "encrypted_secrets" not in monitored.schemas or len(statement) != 1:
        return False
    if not _READING_SELECT.issuperset(select) or select.get("op", "SETOP_NONE") != "SETOP_NONE":
        return False
    if select.get("limitOption", "LIMIT_OPTION_DEFAULT") != "LIMIT_OPTION_DEFAULT":
        return False
    targets = [target.get("ResTarget", {}) for target in select.get("targetList", ())]
    if not targets or len(targets) > _MOST_READS or any("indirection" in target for target in targets):
        return False
    source = select.get("fromClause")
    if source is None:
        values = [target.get("val", {}) for target in targets]
        return any("FuncCall" in value for value in values) and all(
            _is_read(value) or _is_plain(value) for value in values
        )
    return _is_reading_source(source) and all(_is_column(target.get("val", {})) for target in targets)


def _is_reading_source(source: list[Node]) -> bool:
    """Tells whether a FROM has one call of a reader, and nothing else."""
    ranged = source[0].get("RangeFunction") if len(source) == 1 else None
    if not isinstance(ranged, dict) or not {"functions", "alias"}.issuperset(ranged):
        return False
    functions = ranged.get("functions", [])
    items = functions[0].get("List", {}).get("items", []) if len(functions) == 1 else []
    return bool(items) and _is_read(items[0]) and not any(items[1:])


def _is_column(value: Node) -> bool:
    """Tells whether an expression is a column without its table: with that, it may call a function."""
    fields = value.get("ColumnRef", {}).get("fields", ())
    return len(value) == 1 and len(fields) == 1


def _is_read(value: Node) -> bool:
    call = value.get("FuncCall")
    if not isinstance(call, dict) or len(value) != 1 or not _READING_CALL.issuperset(call):
        return False
    return _strings(call.get("funcname", [])) == _READER and all(
        _is_plain(argument) for argument in call.get("args", ())
    )


def _is_plain(value: Node) -> bool:
    """Tells whether an expression is a constant or a parameter, with a cast to a type of PostgreSQL's or without."""
    if len(value) != 1:
        return False
    if "NamedArgExpr" in value:
        value = value["NamedArgExpr"].get("arg", {})
    cast = value.get("TypeCast")
    if isinstance(cast, dict):
        named = cast.get("typeName", {})
        plain = not (named.get("typmods") or named.get("arrayBounds") or named.get("setof") or named.get("pct_type"))
        if not plain or _strings(named.get("names", [])) not in _READING_TYPES:
            return False
        value = cast.get("arg", {})
    return len(value) == 1 and ("A_Const" in value or "ParamRef" in value)


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
    """Adds the calls of a PL/pgSQL block, statement by statement; False if it does not parse."""
    block = plpgsql.read(plpgsql.as_do(code)) if found.level < MOST_LEVELS else None
    if block is None:
        return False
    walk_block(block, monitored, found)
    return True


def walk_function(definition: Node, language: str, text: str, monitored: Monitored, found: Found) -> None:
    """Gives what a function calls when it runs. `definition`: the CreateFunctionStmt of `text`."""
    _walk([definition.get("parameters", []), definition.get("sql_body", {})], monitored, found)
    block = plpgsql.read(text) if language == "plpgsql" else None
    if block is not None:
        walk_block(block, monitored, found)
        return
    for option in definition.get("options", []):
        element = option.get("DefElem", {})
        if element.get("defname") == "as":
            for code in _texts(element.get("arg")):
                if language != "sql" or not _text(code, monitored, found):
                    found.calls += monitored.calls_by_word(code)


def walk_block(block: plpgsql.Block, monitored: Monitored, found: Found) -> None:
    """Walks the statements and expressions of a PL/pgSQL body, and the types of its variables."""
    inner = Found(level=found.level + 1)
    for query, dynamic in block.statements:
        if not _text(query, monitored, inner, dynamic=dynamic):
            inner.calls += monitored.calls_by_word(query)
    for name in block.types:
        inner.calls += monitored.dependencies.type(name)
    _merge(found, inner)


def _text(query: str, monitored: Monitored, found: Found, *, dynamic: bool = False) -> bool:
    """Reads a statement inside a body, with its variables as unknown arguments; False if it does not parse."""
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
                inner = Found(level=found.level + 1)
                if found.level < MOST_LEVELS and _text(text, monitored, inner):
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
