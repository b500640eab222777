"""Provides a blocking client and a backend of bytes, for what no driver would send or leave unread."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

from tests.support.raw import message

CHUNK = 1 << 20


def startup(user: str = "app_user", database: str = "app") -> bytes:
    body = b"\0\3\0\0" + f"user\0{user}\0database\0{database}\0".encode() + b"\0"
    return struct.pack("!i", len(body) + 4) + body


class Client:
    """A session over a plain socket."""

    def __init__(self, port: int, *, log_in: bool = True, receive: int = 0, timeout: float = 60) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.connect(("127.0.0.1", port))
        self.tail = b""
        if log_in:
            self.send(startup())
            self.until_ready()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_large(self, kind: bytes, head: bytes, size: int, fill: bytes, tail: bytes) -> None:
        """Gives a message with `size` bytes of `fill` in it, made as it is sent."""
        self.send(kind + struct.pack("!I", 4 + len(head) + size + len(tail)) + head)
        piece = fill * CHUNK
        for start in range(0, size, CHUNK):
            self.send(piece[: min(CHUNK, size - start)])
        self.send(tail)

    def until_ready(self, count: int = 1) -> int:
        """Reads up to the so-manieth ReadyForQuery at the end of what came; gives how many bytes that was."""
        size = 0
        seen = 0
        while True:
            data = self.socket.recv(CHUNK)
            if not data:
                raise AssertionError(f"the connection ended: {self.tail!r}")
            size += len(data)
            joined = self.tail + data
            seen += joined.count(b"Z\0\0\0\5") - self.tail.count(b"Z\0\0\0\5")
            self.tail = joined[-6:]
            if seen >= count and self.tail[:5] == b"Z\0\0\0\5":
                return size

    def query(self, text: str) -> int:
        self.send(message(b"Q", text.encode() + b"\0"))
        return self.until_ready()

    def reset(self) -> None:
        """Ends the connection with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class DeafBackend:
    """A server that lets everybody in and then does not read."""

    GREETING = message(b"R", b"\0\0\0\0") + message(b"K", struct.pack("!II", 4711, 1)) + message(b"Z", b"I")

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self.listener.accept()
                self.taken.append(taken)
                # The proxy has connections of its own here as well, and they may stay without an answer for long.
                threading.Thread(target=self._let_in, args=(taken,), daemon=True).start()

    def _let_in(self, taken: socket.socket) -> None:
        with contextlib.suppress(OSError):
            taken.recv(10_000)
            taken.sendall(self.GREETING)
            # The proxy's own questions of the greeting: when the backend began, and its token.
            taken.recv(10_000)
            row = message(b"D", struct.pack("!Hi", 1, 16) + b"1700000000000000")
            taken.sendall(row + message(b"C", b"SELECT 1\0") + message(b"Z", b"I"))
            taken.recv(10_000)
            taken.sendall(message(b"V", b"\xff\xff\xff\xff") + message(b"Z", b"I"))

    def close(self) -> None:
        # A thread in accept() is woken by no close(), but by a shutdown.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for taken in self.taken:
            taken.close()


@contextlib.contextmanager
def deaf_backend() -> Iterator[DeafBackend]:
    backend = DeafBackend()
    try:
        yield backend
    finally:
        backend.close()
