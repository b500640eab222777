"""Verdicts for all texts that differ only in comments and literals: what programs send that write values into their
texts, or what they trace behind them.

A template is a text without these (literals.py). Two texts of one template are the same tokens with other constants,
so PostgreSQL's grammar makes the same tree of them, but for these constants. That is so in plain SELECT, INSERT, UPDATE
and DELETE alone, of node kinds that are listed here: there no constant decides what is called. (One does in DO,
EXECUTE, CREATE FUNCTION and the like, whose strings are texts themselves, in an array's text, and in `float(n)`.) How
many numbers or strings stand in `IN (...)` decides nothing either. The verdict on a template is that on a text of it
with a mark of its own in the place of each string: where a mark is among the arguments of a call, a text's own string
stands.

A template is kept by all its bytes, never by a hash. It is learned from the second text that has it, so that texts
which share none cost no more than before, and only if it says of that text what the text's own analysis said.
Holds no literal of any text. Pure.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from secretproxy.detect.arguments import Argument, Array, Constant
from secretproxy.detect.calls import Call
from secretproxy.detect.literals import (
    MORE_NUMBERS,
    MORE_STRINGS,
    MOST,
    NUMBER,
    STRING,
    Split,
    span,
    split,
    without_comments,
)
from secretproxy.detect.verdict import HARMLESS, Verdict

# Templates of one detector, their bytes, those of the longest one, and texts whose template was seen once.
MOST_TEMPLATES, MOST_TEMPLATE_BYTES, LONGEST, MOST_SEEN = 2048, 1024 * 1024, 32_768, 4096
# In these no byte of a longer character is one of ASCII's: a text that does not decode can be parsed byte by byte, and
# any text can be cut.
ASCII_STANDS: Final = frozenset({"utf-8", "latin-1", "euc_jp", "euc_kr", "gb2312", "euc_jis_2004"})
# No text has it by chance or by intent.
_MARK: Final = f"spx{uuid.uuid4().hex}_"
# `float(n)` is another type by its n.
_DECIDES: Final = re.compile(rb"float\s*\(", re.IGNORECASE)
_KEY: Final = re.compile(r'"(\w+)":')
# The keys of libpg_query's JSON in a tree whose constants decide nothing.
_KEYS: Final = frozenset(
    """
    version stmts stmt stmt_location stmt_len location
    SelectStmt targetList distinctClause fromClause whereClause groupClause groupDistinct havingClause windowClause
    valuesLists sortClause limitOffset limitCount limitOption lockingClause withClause op all larg rarg
    InsertStmt relation cols selectStmt onConflictClause returningList returningClause exprs options override
    UpdateStmt DeleteStmt usingClause
    action infer indexElems IndexElem conname ordering nulls_ordering
    ResTarget name indirection val ColumnRef fields A_Star String sval A_Const ival fval bsval boolval isnull
    Integer Float Boolean A_Expr kind lexpr rexpr rexpr_list_start rexpr_list_end List items
    FuncCall funcname args agg_order agg_filter over agg_within_group agg_star agg_distinct func_variadic funcformat
    NamedArgExpr arg argnumber ParamRef number TypeCast typeName names typemod typmods setof
    BoolExpr boolop NullTest nulltesttype argisrow BooleanTest booltesttype
    SubLink subLinkType subLinkId testexpr operName subselect
    CaseExpr CaseWhen expr result defresult CoalesceExpr MinMaxExpr RowExpr row_format colnames
    A_ArrayExpr elements list_start list_end A_Indirection A_Indices is_slice lidx uidx
    CollateClause collname SortBy node sortby_dir sortby_nulls useOp
    JoinExpr jointype isNatural quals alias rtindex join_using_alias Alias aliasname
    RangeVar catalogname schemaname relname inh relpersistence RangeSubselect lateral subquery
    RangeFunction ordinality is_rowsfrom functions
    CommonTableExpr ctename aliascolnames ctematerialized ctequery ctes recursive
    SetToDefault MultiAssignRef source colno ncolumns LockingClause lockedRels strength waitPolicy
    WindowDef refname partitionClause orderClause frameOptions startOffset endOffset
    """.split()  # noqa: SIM905 (one string a line would take four pages)
)


def is_plain(document: str) -> bool:
    """Tells whether a tree, as libpg_query's JSON, has nothing but nodes whose constants decide nothing."""
    return _KEYS.issuperset(_KEY.findall(document))


class _Template:
    """The verdict on each text of a template: `calls` with a mark in the place of each string of the text."""

    __slots__ = ("marked", "verdict")

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        # Which calls have a string among their arguments.
        self.marked = tuple(_is_marked(call) for call in verdict.calls)

    def fill(self, text: bytes, spans: bytes, encoding: str) -> Verdict:
        """Gives the verdict on a text of this template. Raises UnicodeDecodeError."""
        verdict = self.verdict
        if True not in self.marked:
            return verdict
        calls: list[Call] = []
        for call, marked in zip(verdict.calls, self.marked, strict=True):
            if marked:
                call = Call(
                    call.schema,
                    call.name,
                    tuple([_filled(argument, text, spans, encoding) for argument in call.positional]),
                    tuple([(name, _filled(argument, text, spans, encoding)) for name, argument in call.named]),
                    call.opaque,
                    call.signature,
                    call.via,
                )
            calls.append(call)
        return Verdict(
            tuple(calls), tables=verdict.tables, fingerprint=verdict.fingerprint, only_reads=verdict.only_reads
        )


def _is_marked(call: Call) -> bool:
    given = [*call.positional, *(argument for _, argument in call.named)]
    given += [element for argument in given if isinstance(argument, Array) for element in argument.elements]
    return any(isinstance(argument, Constant) and argument.text is not None for argument in given)


def _filled(argument: Argument, text: bytes, spans: bytes, encoding: str) -> Argument:
    if isinstance(argument, Constant):
        marked = argument.text
        if marked is None:
            return argument
        if not marked.startswith(_MARK):
            raise ValueError
        begin, end = span(spans, int(marked[len(_MARK) :]))
        return Constant(text[begin:end].decode(encoding).replace("''", "'"))
    if isinstance(argument, Array):
        return Array(tuple([_filled(element, text, spans, encoding) for element in argument.elements]))  # type: ignore[misc]
    return argument


class Templates:
    """The templates that one detector knows."""

    __slots__ = ("_bare", "_bytes", "_commented", "_cut", "_known", "_seen", "_text")

    def __init__(self) -> None:
        # None: a template without a verdict of its own.
        self._known: dict[bytes, _Template | None] = {}
        self._bytes = 0
        # Hashes of templates: two that have the same one cost an analysis, no more.
        self._seen: set[int] = set()
        # The text that is being looked at, and what it is cut into.
        self._text = b""
        self._cut: Split | None = None
        # The text whose comments were looked for, and the same without them, None if it has none or is doubtful.
        self._commented = b""
        self._bare: bytes | None = None

    def clear(self) -> None:
        """Forgets all verdicts."""
        self._known.clear()
        self._bytes = 0

    def find(self, text: bytes, encoding: str) -> Verdict | None:
        """Gives the verdict on a text whose template is known."""
        cut = self._split(text, encoding)
        if cut is None:
            return None
        template = self._known.get(cut[0])
        if template is None:
            return None
        bare = self._source(text)
        self.drop()
        return template.fill(bare, cut[1], encoding)

    def bare(self, text: bytes, encoding: str) -> bytes | None:
        """Gives a text without its comments: the grammar makes the same tree of it. None if it has none, or if it is
        not sure what is one."""
        if text is not self._commented:
            if text is self._text and self._cut is not None:
                # A text that is cut as it is has no comment.
                return None
            self.drop()
            if len(text) <= MOST and encoding in ASCII_STANDS:
                bare = without_comments(text)
                if bare is not None and _decodes(text, encoding):
                    self._bare = bare
            self._commented = text
        return self._bare

    def marked(self, text: bytes, encoding: str) -> bytes | None:
        """Gives the text whose verdict is that of a template: of that which this text has, if another one had it
        before."""
        cut = self._split(text, encoding)
        if cut is None or len(cut[0]) > LONGEST or cut[0] in self._known:
            return None
        seen = hash(cut[0])
        if seen not in self._seen:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen.add(seen)
            self.drop()
            return None
        parts = cut[0].replace(NUMBER, b"1").replace(MORE_NUMBERS, b",1").replace(MORE_STRINGS, b",''").split(STRING)
        strings = [f"'{_MARK}{number}'".encode() for number in range(len(parts) - 1)]
        if _DECIDES.search(cut[0]):
            self._keep(cut[0], None)
            return None
        return b"".join([part for pair in zip(parts, [*strings, b""], strict=True) for part in pair])

    def learn(self, text: bytes, encoding: str, verdict: Verdict, of_marked: Verdict | None) -> None:
        """Keeps the template of a text with its verdict, if it says of this text what `verdict` says.

        of_marked: the verdict on the text of marked(), None if its tree is not plain.
        """
        cut = self._split(text, encoding)
        bare = self._source(text)
        self.drop()
        if cut is None or not verdict.parsed:
            return
        template = None
        if of_marked is not None and _is_whole(of_marked):
            try:
                made = _Template(of_marked)
                if made.fill(bare, cut[1], encoding) == verdict:
                    template = made
            except ValueError:
                # A constant that is no string of the text.
                pass
        self._keep(cut[0], template)

    def _split(self, text: bytes, encoding: str) -> Split | None:
        if text is self._text:
            return self._cut
        if len(text) > MOST or encoding not in ASCII_STANDS:
            return None
        cut = None if text is self._commented and self._bare is not None else split(text)
        if cut is None:
            bare = self.bare(text, encoding)
            if bare is not None:
                cut = split(bare)
        elif not _decodes(text, encoding):
            cut = None
        self._text, self._cut = text, cut
        return cut

    def _source(self, text: bytes) -> bytes:
        """Gives what the spans of a text that was cut are places in."""
        return text if text is not self._commented or self._bare is None else self._bare

    def drop(self) -> None:
        """Keeps no text longer than it is looked at."""
        self._text, self._cut = b"", None
        self._commented, self._bare = b"", None

    def _keep(self, template: bytes, found: _Template | None) -> None:
        if len(self._known) >= MOST_TEMPLATES or self._bytes > MOST_TEMPLATE_BYTES:
            # The oldest half goes: dictionaries keep the order of insertion.
            for key in list(self._known)[: len(self._known) // 2]:
                del self._known[key]
            self._bytes = sum(len(key) for key in self._known)
        self._bytes += len(template)
        self._known[template] = found

    def __repr__(self) -> str:
        return f"Templates({len(self._known)})"


def _decodes(text: bytes, encoding: str) -> bool:
    if text.isascii():
        return True
    try:
        text.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_whole(verdict: Verdict) -> bool:
    """Tells whether a verdict says nothing that a template does not keep."""
    return verdict is HARMLESS or verdict == Verdict(
        verdict.calls, tables=verdict.tables, fingerprint=verdict.fingerprint, only_reads=verdict.only_reads
    )
