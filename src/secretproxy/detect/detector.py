"""The detector: a cheap look at the bytes, then PostgreSQL's grammar, then a walk over the tree.

The look at the bytes is sound: an identifier of ASCII letters stands in the text literally, whatever its case, unless
it is written in U& notation, and then `u&` stands there. Where neither does, no parser needs to be asked. Where pglast
cannot parse a text, its names are looked for as words: the backend decides whether it runs, testimony sees what does.
"""

from __future__ import annotations

import gc
import itertools
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import pglast.parser

from secretproxy.detect import tree
from secretproxy.detect.calls import Call
from secretproxy.detect.dependencies import Dependencies
from secretproxy.detect.functions import NAMES
from secretproxy.detect.string_literals import ESCAPES, STANDARD, as_standard
from secretproxy.detect.templates import ASCII_STANDS, Templates, is_plain
from secretproxy.detect.verdict import HARMLESS, MOST_EXECUTES, Found, Verdict, defined, executed, once, union

# Statements that make calls, or end what makes them, by the name of something prepared or declared before.
_BY_NAME: Final = re.compile('"(?:ExecuteStmt|FetchStmt|DeallocateStmt|ClosePortalStmt)"')
# The statements that lead to a call by a remembered name, by a word that each must hold.
_NAMING: Final = (b"execute", b"fetch", b"move", b"deallocate", b"close")
# In the place of how strings are read, which no text without a backslash depends on: the verdict is on all texts that
# are this one but for comments.
_BARE: Final = 0
CACHE_ENTRIES: Final = 4096
HARMLESS_TEXT_BYTES: Final = 512
CACHE_TEXT_BYTES: Final = 4096
CACHE_BYTES: Final = 4 * 1024 * 1024

# What the parser makes of a text weighs about 150 bytes for each of its non-word characters.
_WORD_BYTES: Final = bytes(sorted(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")) + bytes(
    range(128, 256)
)
_MOST_SIGNS: Final = 100_000
# PostgreSQL's scanner reads a run of signs again from each of them (operators that end in + or -, nested comments).
_SIGNS_IN_A_ROW: Final = re.compile(rb"[-~!@#^&|`?+*/%<>=]{64,}")
_MOST_SCANNED_AGAIN: Final = 4_000_000
# Characters of a tree that is walked. A text of _MOST_SIGNS has a tree of 20 MB; more only where the grammar copies
# nodes.
_MOST_TREE: Final = 32 * 1024 * 1024
# Constants that are no string: what they are is never asked, and in a long text they are most of the tree. No string of
# the tree has this in it, as its marks would have a backslash there.
_NO_STRING: Final = re.compile(
    r'{"A_Const":{"(?:ival":{(?:"ival":-?\d+)?}|fval":{"fval":"[^"\\]*"}|boolval":{(?:"boolval":true)?}),"location":\d+}}'
)
_MANY_CONSTANTS: Final = 4096
# Characters of a tree from which the garbage collector waits while it is read and walked.
_LARGE_TREE: Final = 256 * 1024


# A text with more non-word characters than this is not for the event loop: it would take 2 ms and more. So many are one
# turn's.
LIGHT, TURN = 256, 320
# Longer texts are not searched for the names of the catalog on the event loop.
_MOST_LOOKED: Final = 65_536
# Bytes of a text that is cut (templates.py) which take as long as a sign that is parsed.
_CUT_WORK: Final = 4096
# Texts with more signs than this have no fingerprint where only testimony shows what they do: it would be made on the
# event loop, and takes about an eighth of an analysis.
_FINGERPRINTED, _FINGERPRINT_WORK = 2048, 8


def weight(text: bytes) -> int:
    """Counts the non-word characters of a text; the cost of parsing is proportional to them."""
    return len(text.translate(None, _WORD_BYTES))


class Allowance:
    """The detection that the event loop may do in one turn, in non-word characters, for all sessions together.

    later: has a function called in the loop's next turn; without it there is no limit.
    """

    def __init__(self, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._later = later
        self._left = TURN
        # Texts that wait for their turn: who comes later does not overtake them.
        self.queue = 0

    def take(self, work: int, *, queued: bool = False) -> bool:
        if self._later is None:
            return True
        if work > self._left or (self.queue and not queued):
            return False
        if self._left == TURN:
            self._later(self._refill)
        self._left -= work
        return True

    def _refill(self) -> None:
        self._left = TURN


def too_hard(text: bytes) -> bool:
    """Says whether parsing the text would take seconds or hundreds of megabytes, unlike every sensible text of its
    length.
    """
    signs = weight(text)
    if signs > _MOST_SIGNS:
        return True
    if signs**2 <= _MOST_SCANNED_AGAIN:
        # All in one run.
        return False
    return sum(len(run) ** 2 for run in _SIGNS_IN_A_ROW.findall(text)) > _MOST_SCANNED_AGAIN


_NUMBERS: Final = itertools.count(1)


class Detector:
    """Verdicts on statement texts, cached by their bytes.

    Shared by all sessions of a process; thread safe in `analyse`.
    """

    def __init__(
        self,
        schemas: Sequence[str] = ("encrypted_secrets",),
        tables: Sequence[str] = ("secrets_schema.secrets_table",),
        allowance: Allowance | None = None,
    ) -> None:
        self.number = next(_NUMBERS)
        self.allowance = allowance or Allowance()
        self.monitored = tree.Monitored(tuple(schemas), tuple(tuple(table.split(".", 1)) for table in tables))  # type: ignore[misc]
        words = {*NAMES, *schemas, *(table.rpartition(".")[2] for table in tables)}
        self._needles = (*_shortest({word.lower().encode() for word in words}), b"u&")
        self._words = re.compile(
            r"(?<![\w$])(?:"
            + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
            + r")(?![\w$])",
            re.IGNORECASE,
        )
        self._has_dependencies = False
        self._harmless: set[bytes] = set()
        self._cache: dict[tuple[bytes, str, int], Verdict] = {}
        self._cached_bytes = 0
        self._templates = Templates()

    def may_concern(self, text: bytes, remembered: Collection[bytes] = ()) -> bool:
        """Looks quickly at a text. `remembered`: lower-case names of statements and cursors that lead to a secret
        call."""
        if self._has_dependencies and not remembered:
            return self._may_name_a_dependency(text)
        return self._may_concern(text.lower(), remembered)

    def _may_name_a_dependency(self, text: bytes) -> bool:
        """Searches a text for the many names of a catalog; results for recurring texts are cached."""
        if text in self._harmless:
            return False
        if self._may_concern(text.lower(), ()):
            return True
        if len(text) <= HARMLESS_TEXT_BYTES:
            if len(self._harmless) >= CACHE_ENTRIES:
                self._harmless.clear()
            self._harmless.add(text)
        return False

    def _may_concern(self, lowered: bytes, remembered: Collection[bytes]) -> bool:
        if self._has_needle(lowered):
            return True
        if remembered and any(word in lowered for word in _NAMING) and any(name in lowered for name in remembered):
            return True
        return self._has_dependencies and (
            len(lowered) > _MOST_LOOKED or self.monitored.dependencies.may_concern(lowered)
        )

    def _has_needle(self, lowered: bytes) -> bool:
        for needle in self._needles:  # noqa: SIM110 (on the way of each text)
            if needle in lowered:
                return True
        return False

    def _is_harmless(self, text: bytes) -> bool:
        """Finishes the quick look at a text that was too long for it."""
        if not self._has_dependencies or len(text) <= _MOST_LOOKED:
            return False
        lowered = text.lower()
        if self._has_needle(lowered) or any(word in lowered for word in _NAMING):
            return False
        return not self.monitored.dependencies.may_concern(lowered)

    def may_analyse_now(self, text: bytes) -> bool:
        """Says whether the text may be analysed on the event loop at once."""
        work = weight(text)
        return work <= LIGHT and self.allowance.take(work)

    def learn(self, dependencies: Dependencies) -> None:
        """Takes what the catalog says leads to a secret function; verdicts of before are forgotten."""
        self.monitored = replace(self.monitored, dependencies=dependencies)
        self._has_dependencies = bool(dependencies)
        self._cache.clear()
        self._cached_bytes = 0
        self._harmless.clear()
        self._templates.clear()

    def verdict(
        self, text: bytes, encoding: str, remembered: Collection[bytes] = (), conforming_strings: int = STANDARD
    ) -> Verdict:
        """Gives the verdict on a text as it came over the wire; `encoding` is Python's name of the client's.

        strings: how its string constants may be read, see string_literals.py.
        """
        if not self.may_concern(text, remembered):
            return HARMLESS
        cached = self.cached(text, encoding, conforming_strings)
        if cached is not None:
            return cached
        return self.store(text, encoding, self.look(text, encoding, conforming_strings), conforming_strings)

    def cached(self, text: bytes, encoding: str, conforming_strings: int = STANDARD) -> Verdict | None:
        """Gives the verdict on a text that is known, or whose template is."""
        if len(text) <= CACHE_TEXT_BYTES:
            found = self._cache.get((text, encoding, conforming_strings))
            if found is not None:
                return found
        elif not self.allowance.take(len(text) // _CUT_WORK, queued=True):
            return None
        # What is remembered of the text before may be by another encoding.
        self._templates.drop()
        if text.endswith(b"*/") or text.startswith(b"/*"):
            # What traces statements makes these: most differ from a known one in this comment alone.
            found = self._of_bare(text, encoding)
            return self._templates.find(text, encoding) if found is None else found
        found = self._templates.find(text, encoding)
        return self._of_bare(text, encoding) if found is None else found

    def _of_bare(self, text: bytes, encoding: str) -> Verdict | None:
        """Gives the verdict on a text that differs from a known one in comments alone."""
        bare = self._templates.bare(text, encoding)
        found = self._cache.get((text if bare is None else bare, encoding, _BARE))
        if found is None and bare is not None:
            found = self._cache.get((bare, encoding, STANDARD))
            # These may be by the words of that text, and comments have other ones.
            if found is HARMLESS or (found is not None and not found.parsed):
                found = None
        if found is not None:
            self._templates.drop()
        return found

    def look(self, text: bytes, encoding: str, conforming_strings: int = STANDARD) -> Verdict:
        """Analyses a text on the event loop, and its template where that has come before."""
        verdict = self.analyse(text, encoding, conforming_strings)
        marked = self.marked(text, encoding)
        if marked is not None and self.allowance.take(weight(marked), queued=True):
            self.learn_template(text, encoding, verdict, self.of_marked(marked))
        return verdict

    def marked(self, text: bytes, encoding: str) -> bytes | None:
        """Gives the text that shows what the template of a text does, if it is to be learned (templates.py)."""
        return self._templates.marked(text, encoding)

    def of_marked(self, marked: bytes) -> Verdict | None:
        """Gives the verdict on a template; None if a constant may decide something in it. Pure, like `analyse`."""
        if too_hard(marked):
            return None
        sql = marked.decode()
        try:
            document = pglast.parser.parse_sql_json(sql)
        except Exception:
            return None
        return self._of_tree(document, sql) if len(document) <= _MOST_TREE and is_plain(document) else None

    def learn_template(self, text: bytes, encoding: str, verdict: Verdict, of_marked: Verdict | None) -> None:
        """Keeps what was found of a text and of its template."""
        self._templates.learn(text, encoding, verdict, of_marked)

    def store(self, text: bytes, encoding: str, verdict: Verdict, conforming_strings: int = STANDARD) -> Verdict:
        self._keep(text, encoding, conforming_strings, verdict)
        bare = self._templates.bare(text, encoding)
        if bare is not None and len(bare) <= CACHE_TEXT_BYTES and self._is_of_tree(bare, encoding, verdict):
            self._keep(bare, encoding, _BARE, verdict)
        self._templates.drop()
        return verdict

    def _is_of_tree(self, bare: bytes, encoding: str, verdict: Verdict) -> bool:
        """Tells whether the verdict on a text with comments is that of its tree without them. One by words says nothing
        of a text with fewer of them, and where it is HARMLESS it does not show: its comments may have been too hard to
        parse."""
        if verdict is not HARMLESS:
            return verdict.parsed
        if weight(bare) > LIGHT:
            return False
        try:
            sql = bare.decode(encoding)
            return self._of_tree(pglast.parser.parse_sql_json(sql), sql) is HARMLESS
        except Exception:
            return False

    def _keep(self, text: bytes, encoding: str, reading: int, verdict: Verdict) -> None:
        if len(text) <= CACHE_TEXT_BYTES:
            if len(self._cache) >= CACHE_ENTRIES or self._cached_bytes > CACHE_BYTES:
                # The oldest half goes: dictionaries keep the order of insertion.
                for key in list(self._cache)[: len(self._cache) // 2]:
                    del self._cache[key]
                self._cached_bytes = sum(len(key[0]) for key in self._cache)
            self._cached_bytes += len(text)
            self._cache[text, encoding, reading] = verdict

    def analyse(self, text: bytes, encoding: str, conforming_strings: int = STANDARD) -> Verdict:
        """Parses and walks, in both readings where the session may have either. Pure: it may run in another process."""
        if self._is_harmless(text):
            return HARMLESS
        try:
            sql = text.decode(encoding)
        except UnicodeDecodeError:
            sql = text.decode("latin-1")
            if encoding not in ASCII_STANDS:
                return self._by_words(sql)
        if too_hard(text):
            return self._by_words(sql)
        if conforming_strings == STANDARD or "\\" not in sql:
            return self._read(sql)
        escaped = self._read(as_standard(sql))
        if conforming_strings == ESCAPES:
            return escaped
        standard = self._read(sql)
        # What does not parse does not run.
        if not standard.parsed and escaped.parsed:
            return escaped
        return standard if not escaped.parsed else union(standard, escaped)

    def _read(self, sql: str) -> Verdict:
        try:
            document = pglast.parser.parse_sql_json(sql)
        except Exception:
            return self._by_words(sql)
        return self._by_words(sql) if len(document) > _MOST_TREE else self._of_tree(document, sql)

    def _of_tree(self, document: str, sql: str) -> Verdict:
        """Gives the verdict on a parse tree, as libpg_query's JSON."""
        monitored = self.monitored
        if not self._words.search(document) and not _BY_NAME.search(document) and not monitored.dependencies:
            return HARMLESS
        found = Found()
        if len(document) > _MANY_CONSTANTS:
            document = _NO_STRING.sub('{"A_Const":{}}', document)
        # A large tree is half a million objects without a cycle among them, which the collector looks at again and
        # again.
        collected = len(document) > _LARGE_TREE and gc.isenabled()
        if collected:
            gc.disable()
        try:
            statements: list[dict[str, Any]] = json.loads(document).get("stmts", [])
            for statement in statements:
                tree.walk_statement(statement.get("stmt", {}), monitored, found)
            found.only_reads = len(statements) == 1 and tree.only_reads(statements[0].get("stmt", {}), monitored)
        except RecursionError:
            return self._by_words(sql)
        finally:
            if collected:
                gc.enable()
        return self._verdict(found, sql)

    def _verdict(self, found: Found, sql: str) -> Verdict:
        """Makes the verdict of what was found in a text."""
        if not any(
            (
                found.calls,
                found.definitions,
                found.tables,
                found.prepares,
                found.cursors,
                found.executes,
                found.fetches,
                found.deallocates,
                found.closes,
            )
        ):
            return HARMLESS
        calls = once(found.calls)
        if len({execute.name for execute in found.executes} | set(found.fetches)) > MOST_EXECUTES:
            # What so many names lead to is not looked up one by one.
            calls += tuple(Call(schema, "*", opaque=True) for schema in self.monitored.schemas)
            found.executes, found.fetches = [], []
        return Verdict(
            calls,
            defined(found.definitions),
            tuple(dict.fromkeys(found.tables)),
            tuple(found.prepares),
            tuple(found.cursors),
            executed(found.executes),
            tuple(dict.fromkeys(found.fetches)),
            tuple(found.deallocates),
            tuple(found.closes),
            fingerprint(sql),
            only_reads=found.only_reads,
        )

    def fingerprint_now(self, text: bytes, encoding: str) -> str | None:
        """Gives the fingerprint of a text that the quick look found harmless.

        None if making it would use the event loop's time.
        """
        work = weight(text)
        if work > _FINGERPRINTED or not self.allowance.take(work // _FINGERPRINT_WORK, queued=True):
            return None
        return fingerprint(text.decode(encoding, "replace"))

    def by_words(self, text: bytes, encoding: str) -> Verdict:
        """Gives the verdict on a text that takes too long to parse."""
        try:
            return self._by_words(text.decode(encoding))
        except UnicodeDecodeError:
            return self._by_words(text.decode("latin-1"))

    def by_needles(self, text: bytes) -> Verdict:
        """Gives the verdict as a last resort: what the text may call, judged by its bytes."""
        lowered = text.lower()
        names = [name for name in sorted(NAMES) if name.encode() in lowered]
        calls = [Call(self.monitored.schemas[0], name, opaque=True) for name in names]
        if b"u&" in lowered or not names:
            calls += [Call(schema, "*", opaque=True) for schema in self.monitored.schemas]
        return Verdict(calls=tuple(calls), parsed=False)

    def _by_words(self, sql: str) -> Verdict:
        calls = self.monitored.calls_by_word(sql)
        return Verdict(calls=calls, parsed=False) if calls else HARMLESS

    def __repr__(self) -> str:
        return f"Detector({len(self._cache)} verdicts)"


def fingerprint(sql: str) -> str | None:
    """Gives the statement's fingerprint (libpg_query), equal for texts that differ only in constants."""
    if too_hard(sql.encode("utf-8", "replace")):
        return None
    try:
        return str(pglast.parser.fingerprint(sql))
    except Exception:
        return None


def _shortest(words: set[bytes]) -> list[bytes]:
    """Gives the words that contain no other word: a text without these has none."""
    return sorted(word for word in words if not any(other != word and other in word for other in words))
