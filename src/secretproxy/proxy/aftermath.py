"""What goes on in a backend whose client is gone is still read, for the log's sake.

A backend that was sent a statement runs it, whether anybody waits for the answer or not, and what it calls on the way may be
committed. So its connection is not cut off: the backend is told that nothing more comes, is asked to stop where it still
produces something, and what it testifies to goes to the journal until it has ended. Nothing is held: nobody could see a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from secretproxy.wire import messages

if TYPE_CHECKING:
    from secretproxy.proxy.relay import BackendSide, ClientSide
    from secretproxy.session.session import Session

log: Any = structlog.get_logger("secretproxy.session")

# Events that may wait for the log before a backend without a client is no longer read from.
MOST_WAITING = 100_000


class Aftermath:
    """Stands in for the client of a backend. `stop`: the statement under way is cancelled at once, not at its next output."""

    def __init__(self, client: ClientSide, session: Session, backend: BackendSide, *, stop: bool) -> None:
        self._client = client
        self._server = client.server
        self._session = session
        self._backend = backend
        self._cancelled = False
        self._over = False
        backend.client = self
        session.client_gone = True
        if stop:
            self._cancel()

    def begin(self) -> None:
        """Tells the backend that its client has gone and reads what it has said already."""
        backend = self._backend
        if self._session.takes_terminate:
            backend.write(messages.TERMINATE)
        backend.leave()
        backend.set_peer_full(False)
        backend.set_busy(False)
        self._take_backlog()
        if backend.ended:
            self.backend_ended()

    def _take_backlog(self) -> None:
        backend = self._backend
        while backend.backlog and not backend.busy and not self._over:
            self.from_backend(backend.backlog.popleft())

    def from_backend(self, data: bytes) -> None:
        if self._over:
            return
        if self._backend.busy:
            self._backend.backlog.append(data)
            return
        journal = self._server.journal
        try:
            step = self._session.from_backend(data)
        except Exception as error:
            log.error(
                "a backend without a client is no longer understood", session=self._client.session_id, kind=type(error).__name__
            )
            self._end()
            return
        if not isinstance(step, bytes):
            if step.commit:
                self._client.count_testified(self._session, step.commit)
                done = journal.keep(step.commit)
                if journal.backlog > MOST_WAITING:
                    self._backend.set_busy(True)
                    done.add_done_callback(lambda _: self._go_on())
            if step.record:
                journal.append(step.record, wait=False)
        if self._session.quiet:
            self._end()
        else:
            self._cancel()

    def _go_on(self) -> None:
        if not self._over:
            self._backend.set_busy(False)
            self._take_backlog()
            if self._backend.ended and not self._backend.busy:
                self.backend_ended()

    def _cancel(self) -> None:
        """A backend that cannot write to its client stops; this one is asked to."""
        key = self._session.cancel_key
        if not self._cancelled and key:
            self._cancelled = True
            try:
                self._server.spawn(self._server.cancels.send(messages.cancel_request(key), self._client.session_id))
            except Exception as error:
                log.error(
                    "a backend without a client was not asked to stop", session=self._client.session_id, kind=type(error).__name__
                )

    def set_peer_full(self, full: bool) -> None:
        """Nothing is read from the client any more."""

    def backend_ended(self) -> None:
        if not self._backend.busy:
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._client.backend_is_done()

    def abandon(self) -> None:
        """The proxy ends: there is no time left."""
        self._backend.abort()
        self._end()
