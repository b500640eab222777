"""Reads sockets past their transports, all of a process in one callback of the event loop, where the package was
compiled on Linux; _reading.c says why, and does it.

A transport whose socket is read here is paused for good. It still writes, ends and closes its connection. Must not
decide anything about what is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import uvloop.loop

try:
    from secretproxy.proxy.transport import _reading
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


# What a reader says in place of an error's number where it read something that did not go on.
GAP: Final = -1


class Reader(Protocol):
    """The reader of one socket."""

    def join(self, peer: object, /) -> None:
        """Sends what goes on as it came to the socket of this reader."""

    def send(self, data: bytes, /) -> bool:
        """Sends a chunk to the socket of this reader. What that does not take is given to this reader's `write`. False,
        and nothing is sent, where the socket was let go of."""

    def resume(self) -> None:
        """Reads from the socket."""

    def pause(self) -> None:
        """Reads no more for now."""

    def close(self) -> None:
        """Lets go of the socket, before it is closed."""


class DirectReading:
    """The sockets of one event loop that are read past their transports."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers = _reading.Readers()
        # Whether the process sleeps among the sockets, and not in the event loop.
        self.leads = self._lead(loop)
        if not self.leads:
            loop.add_reader(self._readers.fileno(), self._readers.run)

    def _lead(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Has the event loop sleep among the sockets, where it is uvloop's and shows its libuv; gives whether it
        does."""
        # The wheel's stub of it does not name this, which is for extensions in C.
        pointer: Any = getattr(uvloop.loop, "libuv_get_loop_t_ptr", None)
        if not isinstance(loop, uvloop.Loop) or pointer is None:
            return False
        return self._readers.lead(pointer(loop), uvloop.loop.__file__, self._report)

    def _report(self, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": "a socket that is read past its transport", "exception": error})

    def reader(
        self,
        transport: asyncio.BaseTransport,
        take: Callable[[bytes], bool],
        write: Callable[[bytes], object],
        over: Callable[[int], object],
    ) -> Reader | None:
        """Makes the reader of a transport's socket, paused; None where that has none of its own, as in TLS.

        `take` gets each chunk; if it gives True, the chunk is sent to the socket of the reader that this one was
        joined to. What that socket does not take is given to that reader's `write`. `over` gets 0 at the end of what
        the peer writes, and the number of an error that broke the connection, or GAP where one of these functions
        raised an error or memory ran out; nothing is read behind any of them. The reader must be closed before the
        socket is.
        """
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0 or transport.get_extra_info("ssl_object") is not None:
            return None
        try:
            return _reading.Reader(self._readers, sock.fileno(), take, write, over)
        except OSError:
            # The system watches no more sockets than it was told to.
            return None

    def close(self) -> None:
        """Reads from none of them any more."""
        if not self.leads:
            self._loop.remove_reader(self._readers.fileno())
        self._readers.close()
