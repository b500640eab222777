"""Reads from a socket."""

from __future__ import annotations

import socket


def exactly(sock: socket.socket, count: int) -> bytes:
    """Reads this many bytes. Raises ConnectionError if the other side ends before."""
    found = b""
    while len(found) < count:
        data = sock.recv(count - len(found))
        if not data:
            raise ConnectionError
        found += data
    return found
