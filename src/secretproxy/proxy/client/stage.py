"""Defines the stages of a client's connection: its handshake, or the relay between it and its backend.

Ends in three ways, and each word means one: terminate (the client is told why, by a FATAL error), close (in order,
without a word), abort (at once).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from secretproxy.proxy.client.endpoint import ClientEndpoint, Receiver
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.session")

SHUTTING_DOWN: Final = "terminating connection: the proxy is shutting down"


class ClientStage(Receiver):
    """The receiver of a client's endpoint, which the process can end."""

    def __init__(self, client: ClientEndpoint) -> None:
        self.client: Final = client

    @property
    def idle(self) -> bool:
        """Says whether nothing is lost if it is ended now."""
        raise NotImplementedError

    def terminate(self, sqlstate: str, text: str, hint: str | None = None, detail: str | None = None) -> None:
        """Ends it with a FATAL error to the client."""
        raise NotImplementedError

    def answer_sent(self) -> None:
        """Takes note that an answer which was held for the log has gone to the client."""

    def drain(self) -> None:
        """Ends it for the process's shutdown as soon as it is idle."""
        if self.idle:
            self.shut_down()

    def shut_down(self) -> None:
        """Ends it for the process's shutdown, as a backend's own shutdown would."""
        raise NotImplementedError

    def abort(self) -> None:
        """Ends it: no time is left."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        self.terminate_by_error(error)

    def terminate_by_error(self, error: BaseException) -> None:
        """Ends the session after an unexpected error; only the kind of the error is logged."""
        log.error("internal error, the session ends", session=self.client.session_id, kind=type(error).__name__)
        self.terminate(SqlState.INTERNAL_ERROR, "internal error of secretproxy")

    def guarded(self, work: Callable[[], object]) -> None:
        """Does what the event loop calls, and what must not break off its caller: an error ends the session, which
        would stand still otherwise."""
        try:
            work()
        except (Exception, asyncio.CancelledError) as error:
            self.terminate_by_error(error)

    async def attend(self, work: Coroutine[Any, Any, None]) -> None:
        """Does a part of the work that waits; where it breaks off, the session ends."""
        try:
            await work
        except Exception as error:
            self.terminate_by_error(error)
        except BaseException:
            self.terminate(SqlState.ADMIN_SHUTDOWN, SHUTTING_DOWN)
            raise
