"""Reads one database's catalog: what leads to a secret function there.

Asks the questions of queries.py on a connection that is given, some objects at a time, and puts the answers into a
graph (secretproxy.detect.graph). Keeps nothing. May import asyncpg; its errors go to whoever asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import asyncpg

from secretproxy.config import Host, Settings, revealed
from secretproxy.connections import READING, Place
from secretproxy.connections import connect as open_connection
from secretproxy.detect.dependencies import Dependencies
from secretproxy.detect.graph import Body, Edge, Graph, Object
from secretproxy.detect.tree import Monitored
from secretproxy.proxy.backend.itself import SETTING
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.proxy.catalog import queries

MOST_BODIES = 2000
MOST_ROUNDS = 32
# Objects that one question is about.
PART = 200
# Questions of one reading that may fail because of an object; after that, a part that fails is left out whole.
MOST_FAILURES = 100
# Seconds that one question to a catalog may take.
READ_TIMEOUT = 30.0
_EXCLUDED = ("secretproxy", "information_schema", "pg_catalog", "pg_toast")
# What an event trigger that names no tags is for.
_COMMANDS = ("CREATE", "ALTER", "DROP", "GRANT", "REVOKE", "COMMENT", "SECURITY", "REFRESH", "REINDEX", "IMPORT")


async def connect(
    settings: Settings, database: str | None, tls: BackendTls, mark: str, host: Host | None = None
) -> Any:
    """Connects to a session's database on the backend, as the journal's login; the log may be elsewhere.

    `mark`: the mark by which the proxy recognises itself (itself.py). `host`: only this server.
    """
    addresses = settings.backend.addresses if host is None else [host]
    dsn = settings.audit.dsn
    # The lock that a parsed body's text needs on what it names is not waited for.
    return await open_connection(
        revealed(dsn),
        "secretproxy catalog",
        timeout=settings.audit.timeout,
        command_timeout=settings.audit.timeout,
        settings=READING | {"statement_timeout": "20s", "lock_timeout": "100ms", SETTING: mark},
        places=[Place(address.host, None, address.port) for address in addresses],
        database=database,
        tls=tls.context if tls.context is not None and tls.required else None,
    )


class Reading(NamedTuple):
    """One reading: what leads to a secret function, whether there is more than is kept, and how many objects could not
    be read."""

    leads: Dependencies
    full: bool
    left_out: int


async def read(connection: Any, monitored: Monitored, version: int) -> Reading:
    """Reads what leads to a secret function in the database of a connection. Raises asyncpg's errors."""
    secrets = [_object(row, "function") for row in await connection.fetch(queries.SECRETS, list(monitored.schemas))]
    graph = Graph(monitored, secrets)
    excluded = [*_EXCLUDED, *monitored.schemas]
    tables = [schema for schema, _ in monitored.tables], [name for _, name in monitored.tables]
    dependents, definitions_of = Parts(), Parts()
    known: list[int] = []
    full = False
    for _ in range(MOST_ROUNDS):
        keys, words = graph.unexplored(), graph.words()
        if not keys and not words:
            break
        if keys:

            async def edges(part: Sequence[Any]) -> list[Any]:
                classes, objects = [key[0] for key in part], [key[1] for key in part]
                return list(
                    await connection.fetch(queries.EDGES, classes, objects, excluded, *tables, timeout=READ_TIMEOUT)
                )

            rows, _ = await dependents.fetch(keys, edges)
            await asyncio.to_thread(graph.add_edges, [_edge(row) for row in rows])
        if words:
            wanted = queries.regular_expression(words)

            async def definitions(part: Sequence[Any], wanted: str = wanted) -> list[Any]:
                return list(await connection.fetch(queries.DEFINITIONS, part, wanted, timeout=READ_TIMEOUT))

            asked = [*known, *definitions_of.left_out]
            named = await connection.fetch(queries.BODIES, wanted, excluded, asked, timeout=READ_TIMEOUT)
            rows, more = await definitions_of.fetch([row["obj"] for row in named], definitions, MOST_BODIES)
            full |= more
            known += [row["obj"] for row in rows]
            # A function that has gone meanwhile has no identity or no definition any more.
            bodies = [
                Body(_object(row, "function"), row["language"], row["definition"])
                for row in rows
                if row["identity"] is not None and row["definition"] is not None
            ]
            await asyncio.to_thread(graph.add_bodies, bodies)
    else:
        full = True
    left_out = len(dependents.left_out) + len(definitions_of.left_out)
    return Reading(await asyncio.to_thread(graph.dependencies, version), full or graph.full, left_out)


# Errors about an object that has gone since the snapshot ("cache lookup failed", "relation ... does not exist") or that
# somebody has locked.
_OF_ONE_OBJECT = (
    asyncpg.InternalServerError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedColumnError,
    asyncpg.LockNotAvailableError,
)


class Parts:
    """Asks about many objects, some at a time. Those that cannot be read go into `left_out`."""

    def __init__(self) -> None:
        self.left_out: list[Any] = []
        self._failures = 0

    async def fetch(
        self, items: Sequence[Any], ask: Callable[[Sequence[Any]], Awaitable[list[Any]]], most: int | None = None
    ) -> tuple[list[Any], bool]:
        """Gives the rows of a query about `items`, and whether it stopped because there were `most` of them."""
        found: list[Any] = []
        waiting = [items[start : start + PART] for start in range(0, len(items), PART)]
        while waiting:
            if most is not None and len(found) >= most:
                return found, True
            part = waiting.pop(0)
            try:
                found += await ask(part)
            except _OF_ONE_OBJECT:
                self._failures += 1
                if len(part) > 1 and self._failures < MOST_FAILURES:
                    waiting[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
                else:
                    self.left_out += part
        return found, False


def _object(row: Any, kind: str) -> Object:
    commands: tuple[str, ...] = ()
    if kind == "event":
        commands = tuple(dict.fromkeys(tag.split()[0] for tag in row["commands"])) if row["commands"] else _COMMANDS
    return Object(
        (row["class"], row["obj"]),
        kind,
        row["schema"],
        row["name"],
        row["identity"],
        row.get("least", 0),
        row.get("most", -1),
        row.get("takes_row", False),
        commands,
    )


def _edge(row: Any) -> Edge:
    return Edge((row["ref"], row["source"]), _object(row, row["kind"]), row["needs"], row["gives"], row["through"])
