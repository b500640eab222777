"""Opens a service connection for a block and closes it afterwards; errors on it name the place where they happened.

May import asyncpg. A server's own words are repeated where no class of its errors can quote a row or a parameter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg

from secretproxy.connections.opening import FAILURES, words

# Seconds that a server gets for its goodbye.
_CLOSING = 3.0
# Access rights and names, resources, limits, states of objects and transactions, an operator's doing, the system: their
# messages name objects, settings and files. Those of the other classes can quote what a statement was given or found.
_QUOTES_NOTHING = frozenset({"08", "0A", "25", "28", "3D", "3F", "42", "53", "54", "55", "57", "58"})

Explain = Callable[[Any, Exception], Awaitable[Exception]]


@contextlib.asynccontextmanager
async def held(connection: Any, explain: Explain) -> AsyncIterator[Any]:
    """Closes a connection behind the block. What breaks the connection, or what the server refuses, is raised as
    `explain` has it."""
    try:
        yield connection
    except Exception as error:
        if not broken(connection, error) and not isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
            raise
        raise await explain(connection, error) from None
    finally:
        await close(connection)


@contextlib.asynccontextmanager
async def unkept(connection: Any) -> AsyncIterator[None]:
    """Runs its block in a read-only transaction that is rolled back, however it ends.

    What is read may have code of others attached to it. At a commit, what that code left behind (a deferred trigger, a
    cursor WITH HOLD) would run as the login of this connection."""
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def close(connection: Any) -> None:
    """Ends a connection, whatever state it is in, within seconds: the driver's own time limit does not bound the end of
    a statement."""
    try:
        async with asyncio.timeout(_CLOSING):
            await connection.close(timeout=_CLOSING)
    except BaseException as error:
        connection.terminate()
        if not isinstance(error, Exception):
            raise


def broken(connection: Any, error: Exception) -> bool:
    """Says whether an error comes from a broken connection, even if it was wrapped in another one."""
    causes = [one for one in (error, error.__context__) if not isinstance(one, BrokenPipeError)]
    return bool(connection.is_closed()) and any(isinstance(one, FAILURES) for one in causes)


def broke(connection: Any) -> str:
    """Says which connection broke, and why if it was given up."""
    if connection.given_up is not None:
        return str(connection.given_up)
    return f"the connection to {connection.where} broke: the server, or something on the way to it, closed it"


def refusal(error: Exception) -> str:
    """Gives a server's answer to a statement, in its own words if they can quote neither a row nor a parameter."""
    state = str(getattr(error, "sqlstate", None) or "")
    if isinstance(error, asyncpg.PostgresError) and state[:2] not in _QUOTES_NOTHING:
        return f"{type(error).__name__} (SQLSTATE {state})"
    return words(error)
