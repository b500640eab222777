"""The objects that lead to a secret function without naming it: views, functions, tables, operators, types, as a text
may name them.

A snapshot of one database, made by graph.Graph and looked into by the walk over a statement. Names alone decide, as
search_path and the types of expressions are not known here: an attempt may prove to be another object of that name,
which `calls = 0` shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secretproxy.detect.calls import Call

# What a statement does with a relation.
SELECT, INSERT, UPDATE, DELETE, TRUNCATE, MAINTAIN = 1, 2, 4, 8, 16, 32

_WRITING = tuple(
    b"insert update delete merge truncate copy analyze analyse vacuum cluster reindex refresh index alter".split()
)
# From so many names on the identifiers of a text are looked up in a set instead of each name in the text.
MANY = 6
_IDENTIFIER = re.compile(rb"[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*")
_SEARCHABLE = re.compile(r"[^\x00-\x20\"\x7f-\U0010ffff]+")


@dataclass(frozen=True, slots=True)
class Dependency:
    """One way to a secret function.

    Its signature, what one must do with the relation (0: no relation), the objects between.
    """

    signature: str
    uses: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """An object that leads: its schema, and of a function how many arguments it takes (`most` < 0: any number)."""

    schema: str
    dependencies: tuple[Dependency, ...]
    least: int = 0
    most: int = -1
    takes_row: bool = False


Names = dict[str, tuple[Named, ...]]


class Dependencies:
    """The objects of one database that lead to a secret function, by kind and name. `version` tells snapshots apart."""

    __slots__ = (
        "_identifiers", "_many", "_words", "_write_identifiers", "_write_words",
        "events", "functions", "operators", "relations", "types", "version",
    )  # fmt: skip

    def __init__(
        self,
        version: int = 0,
        functions: Names | None = None,
        relations: Names | None = None,
        operators: Names | None = None,
        types: Names | None = None,
        events: dict[str, tuple[Dependency, ...]] | None = None,
    ) -> None:
        self.version = version
        self.functions = functions or {}
        self.relations = relations or {}
        self.operators = operators or {}
        self.types = types or {}
        # By the first word of a command's tag.
        self.events = events or {}
        reads = [
            name
            for name, found in self.relations.items()
            if any(dependency.uses & SELECT for named in found for dependency in named.dependencies)
        ]
        writes = [name for name in self.relations if name not in reads]
        self._many = len(self) > MANY or any(len(name) < 4 for name in (*self.functions, *self.types, *self.relations))
        self._words, self._identifiers = self._split([*self.functions, *self.types, *reads])
        self._write_words, self._write_identifiers = self._split(writes)
        self._words += tuple(_needle(name) for name in (*self.operators, *self.events))

    def _split(self, names: Sequence[str]) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
        """Splits what is searched for anywhere in a text from what is searched for as a whole identifier."""
        needles = {_needle(name) for name in names}
        if not self._many:
            return tuple(needles), frozenset()
        whole = {
            name.lower().encode() for name in names if name.isascii() and _IDENTIFIER.fullmatch(name.lower().encode())
        }
        return tuple(needles - whole), frozenset(whole)

    def __bool__(self) -> bool:
        return bool(self.functions or self.relations or self.operators or self.types or self.events)

    def __len__(self) -> int:
        return sum(len(names) for names in (self.functions, self.relations, self.operators, self.types, self.events))

    def same_as(self, other: Dependencies) -> bool:
        """Says whether both have the same content, whatever their versions."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("functions", "relations", "operators", "types", "events")
        )

    def may_concern(self, lowered: bytes) -> bool:
        """Looks quickly at a text in lower case: may it use one of these?"""
        for needle in self._words:
            if needle in lowered:
                return True
        written = any(needle in lowered for needle in self._write_words)
        if self._many:
            identifiers = _IDENTIFIER.findall(lowered)
            if not self._identifiers.isdisjoint(identifiers):
                return True
            written = written or not self._write_identifiers.isdisjoint(identifiers)
        return written and any(word in lowered for word in _WRITING)

    def function(self, parts: Sequence[str], arguments: int | None) -> list[Call]:
        """Gives the calls that a function of this name and number of arguments leads to.

        None as the number means that it is not known.
        """
        return [
            call
            for named in _fitting(self.functions, parts)
            if arguments is None or (named.least <= arguments and (named.most < 0 or arguments <= named.most))
            for call in _calls(named.dependencies)
        ]

    def attribute(self, name: str) -> list[Call]:
        """Gives the calls of `row.name`, which may call a function that takes the row."""
        return [
            call for named in self.functions.get(name, ()) if named.takes_row for call in _calls(named.dependencies)
        ]

    def relation(self, parts: Sequence[str], uses: int) -> list[Call]:
        found = _fitting(self.relations, parts)
        return [
            call
            for named in found
            for call in _calls(dependency for dependency in named.dependencies if dependency.uses & uses)
        ]

    def operator(self, parts: Sequence[str]) -> list[Call]:
        return [call for named in _fitting(self.operators, parts) for call in _calls(named.dependencies)]

    def type(self, parts: Sequence[str]) -> list[Call]:
        return [call for named in _fitting(self.types, parts) for call in _calls(named.dependencies)]

    def event(self, word: str) -> list[Call]:
        return list(_calls(self.events.get(word, ())))

    def by_word(self, text: str) -> list[Call]:
        """Gives what a text without a parse tree may use: functions, by their names as words."""
        words = set(re.findall(r"[^\W\d][\w$]*", text.lower()))
        return [
            call
            for name, found in self.functions.items()
            if name.lower() in words
            for named in found
            for call in _calls(named.dependencies)
        ]


def _calls(dependencies: Iterable[Dependency]) -> Iterable[Call]:
    for dependency in dependencies:
        schema, _, name = dependency.signature.partition("(")[0].rpartition(".")
        yield Call(schema, name, opaque=True, signature=dependency.signature, via=dependency.path)


def _fitting(names: Names, parts: Sequence[str]) -> list[Named]:
    if not parts:
        return []
    found = names.get(parts[-1], ())
    return [named for named in found if len(parts) == 1 or named.schema == parts[-2]]


def _needle(name: str) -> bytes:
    """Gives what a text must contain to use a name, in lower case, in any encoding: the name's longest plain part."""
    longest = max(_SEARCHABLE.findall(name), key=len, default="").lower()
    # A name without any letter of ASCII is looked for as UTF-8 has it.
    return longest.encode() or name.lower().encode()


NO_DEPENDENCIES = Dependencies()
