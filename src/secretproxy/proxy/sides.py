"""What both ends of a session have in common: a transport, reasons not to read from it, and an end that is reached once."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import cast

from secretproxy.config import KeepaliveSettings
from secretproxy.proxy.keepalive import keep_alive

# Seconds that a side gets to take what was written to it last before its connection is cut.
_LINGER = 5.0
# How long a client that was logged in may take to hang up once its session is over.
_PARTING = 2.0


class Side:
    """What both ends have in common: a transport, reasons not to read, and an end that is reached once.

    An asyncio.Protocol in all but its base: without one it is a class of its own to mypyc, and a chunk costs half as much.
    """

    def __init__(self, keepalive: KeepaliveSettings) -> None:
        self.keepalive = keepalive
        self._lingering: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.busy = False
        self.backlog: deque[bytes] = deque()
        self.ended = False
        self.said_eof = False
        self._peer_full = False
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            keep_alive(sock, self.keepalive)

    def write(self, data: bytes) -> None:
        if data and not self.said_eof and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_eof(self) -> None:
        """Nothing more will be written; what the other side still says is read."""
        if not self.said_eof and self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self.said_eof = True

    def leave(self) -> None:
        """Nothing more will be written, whatever becomes of the transport; what the other side still says is read."""
        self.write_eof()
        self.said_eof = True

    def set_busy(self, busy: bool) -> None:
        self.busy = busy
        self._read_or_not()

    def keep(self, data: bytes) -> None:
        """Takes a chunk that must wait. A side is busy a moment for each call that is logged, and mostly has nothing to say meanwhile:
        only now is it no longer read from."""
        self.backlog.append(data)
        self._read_or_not()

    def set_peer_full(self, full: bool) -> None:
        self._peer_full = full
        self._read_or_not()

    def _read_or_not(self) -> None:
        reading = not self.busy and not self._peer_full
        if reading is self._reading:
            return
        transport = self.transport
        if transport is not None and not transport.is_closing():
            self._reading = reading
            if reading:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def close(self) -> None:
        """Closes once what was written has gone out; a peer that does not take it in time is cut off."""
        if self.transport is not None and not self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._lingering = asyncio.get_running_loop().call_later(_LINGER, self.abort)
            self.transport.close()

    def part(self) -> None:
        """Closes in such a way that the last words arrive: a socket closed with unread bytes resets its peer, which then loses them."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self.close()
            return
        self.write_eof()
        self.busy = self._peer_full = False
        self._read_or_not()
        self._lingering = asyncio.get_running_loop().call_later(_PARTING, self.close)

    def gone(self) -> None:
        """The connection is no more."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
