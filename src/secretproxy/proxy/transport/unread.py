"""Reads what a peer had sent before its connection broke.

An event loop that cannot write to a socket closes it, whatever is left in it to be read. A backend that has ended
resets its connection at the next byte that it is sent, and what it testified to last may lie in the socket while its
client does not read."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

_CHUNK = 262_144


def unread(transport: asyncio.BaseTransport | None) -> Iterator[bytes]:
    """Reads what is left in the socket of a transport that is about to be closed: at most what the kernel keeps of
    one."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.fileno() < 0:
        return
    try:
        with socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno())) as rest:
            rest.setblocking(False)
            while data := rest.recv(_CHUNK):
                yield data
    except OSError:
        # Nothing is left.
        return
