"""From a database's catalog to what leads to a secret function, without reading the catalog itself.

Whoever reads asks in rounds: `unexplored` are objects whose dependents are wanted (then `add_edges`), `words` are names
that a function's body may hold (then `add_bodies`), until neither gives anything. `dependencies` is the result. So only
what leads to a secret function is ever read, however large the database. Pure; may take its time, so it is run in a
thread.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pglast.parser

from secretproxy.detect import tree
from secretproxy.detect.calls import Call
from secretproxy.detect.dependencies import Dependencies, Dependency, Named, Names
from secretproxy.detect.detector import weight
from secretproxy.detect.verdict import Found, once

# Of one database: objects that lead, ways that are kept of one object, steps on a way.
MOST_OBJECTS, MOST_WAYS, MOST_STEPS = 1000, 8, 16
# Signs and gaps of a function that is parsed; a longer one is judged by its words. This runs in a thread, and what is
# made of the parser's answer keeps the event loop from running meanwhile.
MOST_SIGNS = 8192
# `gives` of an edge along which a statement does the same with both relations: a view over a table, a parent of a
# partition.
SAME = -1

NAMED = ("function", "relation", "operator", "type")

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the catalog: (class, oid), and what a text calls it.

    `kind`: function, relation, operator, type, event, or another word where no text names it. `identity`: for people.
    """

    key: Key
    kind: str
    schema: str
    name: str
    identity: str
    least: int = 0
    most: int = -1
    takes_row: bool = False
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` leads to what `source` leads to. Of relations: if a statement does one of `needs` with the source (0:
    whatever
    it does), it does `gives` with the target. `through`: a trigger, rule or the like between them."""

    source: Key
    target: Object
    needs: int = 0
    gives: int = 0
    through: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """A function, its language and the CREATE FUNCTION that makes it."""

    function: Object
    language: str
    definition: str


@dataclass(slots=True)
class _Node:
    what: Object
    ways: list[Dependency] = field(default_factory=list)


class Graph:
    """One reading of a catalog. `secrets`: the functions of monitored schemas, their signature as identity."""

    def __init__(self, monitored: tree.Monitored, secrets: Iterable[Object]) -> None:
        self._monitored = monitored
        self._nodes: dict[Key, _Node] = {}
        self._secrets: set[Key] = set()
        self._edges: dict[Key, list[Edge]] = {}
        self._bodies: dict[Key, Body] = {}
        self._explored: set[Key] = set()
        self._searched: set[str] = set()
        self._steps: deque[tuple[Key, Dependency]] = deque()
        self.full = False
        for secret in secrets:
            self._secrets.add(secret.key)
            self._nodes[secret.key] = _Node(secret)

    def unexplored(self) -> list[Key]:
        """Objects whose dependents have not been asked for."""
        found = [key for key in self._nodes if key not in self._explored]
        self._explored.update(found)
        return found

    def words(self) -> list[str]:
        """Gives the words that a body must contain to lead there and that have not been searched for, in lower case."""
        if not self._secrets:
            return []
        names = {node.what.name for node in self._nodes.values() if node.what.kind in NAMED} | {
            *self._monitored.schemas,
            "U&",
        }
        new = sorted({name.lower() for name in names} - self._searched)
        self._searched.update(new)
        return new

    def add_edges(self, edges: Iterable[Edge]) -> None:
        for edge in edges:
            self._edges.setdefault(edge.source, []).append(edge)
            for way in self._ways(edge.source):
                self._along(edge, way)
        self._spread()

    def add_bodies(self, bodies: Iterable[Body]) -> None:
        for body in bodies:
            self._bodies.setdefault(body.function.key, body)
        # A body found earlier may use what is known to lead only now.
        changed = True
        while changed and not self.full:
            changed = False
            monitored = tree.Monitored(self._monitored.schemas, self._monitored.tables, self.dependencies(0))
            for key, body in self._bodies.items():
                for call in once(calls_of(body, monitored)):
                    way = Dependency(call.resolve().function, 0, (body.function.identity, *(call.via or ())))
                    changed |= key not in self._secrets and self._arrive(body.function, way)
            self._spread()

    def _ways(self, key: Key) -> list[Dependency]:
        node = self._nodes[key]
        return [Dependency(node.what.identity, 0, ())] if key in self._secrets else node.ways

    def _along(self, edge: Edge, way: Dependency) -> None:
        if edge.needs and not way.uses & edge.needs:
            return
        uses = way.uses if edge.gives == SAME else edge.gives
        if edge.target.kind == "relation" and not uses:
            return
        step = edge.through if edge.through is not None else edge.target.identity
        self._arrive(edge.target, Dependency(way.signature, uses, (step, *way.path)))

    def _arrive(self, target: Object, way: Dependency) -> bool:
        """Takes a way to a secret function, unless the object is known to have one for all the same uses."""
        if target.key in self._secrets or len(way.path) > MOST_STEPS:
            return False
        node = self._nodes.get(target.key)
        if node is None:
            if len(self._nodes) - len(self._secrets) >= MOST_OBJECTS:
                self.full = True
                return False
            node = self._nodes[target.key] = _Node(target)
        known = 0
        same = [dependency for dependency in node.ways if dependency.signature == way.signature]
        for dependency in same:
            known |= dependency.uses
        if (same and not way.uses & ~known) or len(node.ways) >= MOST_WAYS:
            return False
        kept = Dependency(way.signature, way.uses & ~known, way.path)
        node.ways.append(kept)
        self._steps.append((target.key, kept))
        return True

    def _spread(self) -> None:
        while self._steps:
            key, way = self._steps.popleft()
            for edge in self._edges.get(key, ()):
                self._along(edge, way)

    def dependencies(self, version: int) -> Dependencies:
        functions, relations, operators, types = map(self._named, NAMED)
        events: dict[str, list[Dependency]] = {}
        for node in self._nodes.values():
            if node.what.kind == "event":
                for command in node.what.commands:
                    events.setdefault(command, []).extend(node.ways)
        return Dependencies(
            version, functions, relations, operators, types, {word: tuple(ways) for word, ways in events.items()}
        )

    def _named(self, kind: str) -> Names:
        found: dict[str, list[Named]] = {}
        for key, node in self._nodes.items():
            what = node.what
            if what.kind == kind and node.ways and key not in self._secrets:
                found.setdefault(what.name, []).append(
                    Named(what.schema, tuple(node.ways), what.least, what.most, what.takes_row)
                )
        return {name: tuple(named) for name, named in found.items()}


def calls_of(body: Body, monitored: tree.Monitored) -> Sequence[Call]:
    """Gives what a function's body calls: by the parser if its language has one, else by name."""
    found = Found()
    if weight(body.definition.encode("utf-8", "replace")) > MOST_SIGNS:
        return monitored.calls_by_word(body.definition)
    try:
        statements = json.loads(pglast.parser.parse_sql_json(body.definition)).get("stmts", [])
    except Exception:
        return monitored.calls_by_word(body.definition)
    for statement in statements:
        definition = statement.get("stmt", {}).get("CreateFunctionStmt")
        if isinstance(definition, dict):
            tree.walk_function(definition, body.language, body.definition, monitored, found)
    return found.calls
