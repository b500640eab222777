"""Runs the work of a command: says what it waits for, gives up a server that answers nobody any more, and ends cleanly
at Ctrl-C.

A server whose process is stopped, or whose cable is cut, ends no statement and no connection: nothing that TCP or
PostgreSQL knows of happens. So a connection that brings nothing for a while is told of, and its server is asked for a
new one. May import asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from secretproxy.connections.opening import ServiceConnection, open_connections

# Seconds without a byte of any server: after so many a line says what is waited for, and whether each server answers is
# asked.
QUIET = 15
# The line is said again after so many times as long.
_AGAIN = 4
# Questions in a row that a server leaves without an answer until it is given up.
_UNANSWERED = 2
# Seconds that servers get, after Ctrl-C, to take back a statement.
_GOODBYE = 2.0
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_Result = TypeVar("_Result")


class _CountingSelector(selectors.DefaultSelector):
    """Counts how often something came that the loop waits for."""

    ready = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        found: list[Any] = super().select(timeout)
        self.ready += bool(found)
        return found


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in threads that nobody waits for: a name server that is silent holds up neither a time limit nor
    the end of a command. The default executor's threads are joined at both ends."""

    async def getaddrinfo(self, host: Any, port: Any, **asked: Any) -> Any:
        answer = self.create_future()

        def settle(found: Any, error: Exception | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def look_up() -> None:
            found, failed = None, None
            try:
                found = socket.getaddrinfo(host, port, **asked)
            except Exception as error:
                failed = error
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                self.call_soon_threadsafe(settle, found, failed)

        threading.Thread(target=look_up, name="look up", daemon=True).start()
        return await answer


def run(work: Coroutine[Any, Any, _Result], tell: Callable[[str], None]) -> _Result:
    """Runs a command's work to its end and returns its result. `tell` gets a line for a person where it waits for
    long."""
    selector = _CountingSelector()
    with asyncio.Runner(loop_factory=lambda: _Loop(selector)) as runner:
        return runner.run(_watched(work, selector, tell))


async def _watched(
    work: Coroutine[Any, Any, _Result], selector: _CountingSelector, tell: Callable[[str], None]
) -> _Result:
    watch = asyncio.ensure_future(_watch(selector, tell))
    working = asyncio.ensure_future(work)
    try:
        # Shielded: asyncpg ends a cancelled statement only once the server has acknowledged it.
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        working.cancel()
        await asyncio.wait({working}, timeout=_GOODBYE)
        for connection in list(open_connections):
            connection.terminate()
        await asyncio.wait({working}, timeout=_GOODBYE)
        if working.done() and not working.cancelled():
            # The result of an ended connection does not matter.
            working.exception()
        raise
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _watch(selector: _CountingSelector, tell: Callable[[str], None]) -> None:
    ready, quiet, tell_at, unanswered = selector.ready, 0, QUIET, 0
    while True:
        # Seconds in which the loop ran: those in which a reader of the output holds it up are nobody's silence.
        await asyncio.sleep(1)
        waiting = [connection for connection in open_connections if not connection.is_closed()]
        if selector.ready != ready or not waiting:
            ready, quiet, tell_at, unanswered = selector.ready, 0, QUIET, 0
            continue
        quiet += 1
        if quiet >= tell_at:
            tell_at *= _AGAIN
            tell(_line(quiet, waiting))
        if quiet % QUIET and not unanswered:
            continue
        silent = [one for one in waiting if not await answers(one.server, one.patience)]
        if any(one.is_closed() for one in waiting):
            continue
        ready = selector.ready
        unanswered = unanswered + 1 if silent else 0
        if unanswered >= _UNANSWERED:
            for connection in silent:
                connection.given_up = (
                    f"{connection.where} answers no more: nothing came for {quiet} seconds, and then "
                    f"{_UNANSWERED} new connections got no answer within {connection.patience:g} seconds each "
                    "(connect_timeout)"
                )
                connection.terminate()


def _line(quiet: int, waiting: Sequence[ServiceConnection]) -> str:
    places = " and ".join(
        dict.fromkeys(
            connection.where if connection.waits_for is None else f"{connection.where}: {connection.waits_for}"
            for connection in waiting
        )
    )
    return (
        f"still waiting after {quiet} seconds for {places}; Ctrl-C ends this, and so do time limits in the DSN or "
        "PGOPTIONS: "
        "options='-c statement_timeout=5min -c lock_timeout=10s'"
    )


async def answers(server: tuple[str, int], seconds: float) -> bool:
    """Says whether a server at an address answers a new connection, or refuses one."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            host, port = server
            opening = (
                asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
                if host.startswith("/")
                else asyncio.open_connection(host, port)
            )
            reader, writer = await opening
            writer.write(_SSL_REQUEST)
            await reader.read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    except OSError:
        # No way there, or no name for it.
        return False
    else:
        return True
    finally:
        if writer is not None:
            writer.transport.abort()
