"""Reads one database's catalog: what leads to a secret function there.

Asks the questions of queries.py on a connection that is given, some objects at a time, and puts the answers into a
graph (secretproxy.detect.graph). Keeps nothing. May import asyncpg; its errors go to whoever asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

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
    return await open_connection(
        revealed(dsn),
        "secretproxy catalog",
        timeout=settings.audit.timeout,
        command_timeout=settings.audit.timeout,
        settings=READING | {"statement_timeout": "20s", "lock_timeout": "1s", SETTING: mark},
        places=[Place(address.host, None, address.port) for address in addresses],
        database=database,
        tls=tls.context if tls.context is not None and tls.required else None,
    )


async def read(connection: Any, monitored: Monitored, version: int) -> tuple[Dependencies, bool]:
    """Reads what leads to a secret function in the database of a connection, and whether there is more than is kept."""
    secrets = [_object(row, "function") for row in await connection.fetch(queries.SECRETS, list(monitored.schemas))]
    graph = Graph(monitored, secrets)
    excluded = [*_EXCLUDED, *monitored.schemas]
    tables = [schema for schema, _ in monitored.tables], [name for _, name in monitored.tables]
    known: list[int] = []
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

            rows = await in_parts(keys, edges)
            await asyncio.to_thread(graph.add_edges, [_edge(row) for row in rows])
        if words:
            wanted = queries.regular_expression(words)
            rows = await connection.fetch(queries.BODIES, wanted, excluded, known, MOST_BODIES, timeout=READ_TIMEOUT)
            known += [row["obj"] for row in rows]
            defined = await in_parts([row["obj"] for row in rows], partial(_definitions, connection))
            definitions = {row["obj"]: row["definition"] for row in defined}
            # A function that has gone meanwhile has no identity or no definition any more.
            bodies = [
                Body(_object(row, "function"), row["language"], definitions[row["obj"]])
                for row in rows
                if row["identity"] is not None and definitions.get(row["obj"]) is not None
            ]
            await asyncio.to_thread(graph.add_bodies, bodies)
    return await asyncio.to_thread(graph.dependencies, version), graph.full


async def _definitions(connection: Any, part: Sequence[Any]) -> list[Any]:
    return list(await connection.fetch(queries.DEFINITIONS, part, timeout=READ_TIMEOUT))


async def in_parts(items: Sequence[Any], fetch: Callable[[Sequence[Any]], Awaitable[list[Any]]]) -> list[Any]:
    """Yields the rows of a query about many objects, some at a time.

    An object that disappears meanwhile affects no other.
    """
    found: list[Any] = []
    waiting = [items[start : start + PART] for start in range(0, len(items), PART)]
    while waiting:
        part = waiting.pop(0)
        try:
            found += await fetch(part)
        except asyncpg.InternalServerError:
            # "cache lookup failed": the snapshot still sees what has gone from the system's caches.
            if len(part) > 1:
                waiting[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return found


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
