"""A TCP relay before a PostgreSQL server that cuts the connection once the client has sent so many messages."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

from tests.support.reading import exactly


class Cutting:
    """Relays connections to a server; each is cut when the `after`-th message of all clients has come. 0: none is.

    `reset`: by a reset instead of an end. `passing`: the last message still reaches the server. `seen` counts the
    messages."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.set(0)

    def set(self, after: int, *, reset: bool = False, passing: bool = False) -> None:
        """Begins to count anew."""
        with self._lock:
            self.after, self.reset, self.passing = after, reset, passing
            self.seen = 0

    def __enter__(self) -> Cutting:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            self._end(sock)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            threading.Thread(target=self._forth, args=(client, server), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        greeted = False
        try:
            while True:
                # The requests before a startup packet, and that packet, have no letter.
                head = exactly(client, 5 if greeted else 8)
                length = struct.unpack("!I", head[1:5] if greeted else head[:4])[0] + (1 if greeted else 0)
                code = struct.unpack("!I", head[4:8])[0] if not greeted else 0
                message = head + exactly(client, length - len(head))
                greeted = greeted or code not in (80877102, 80877103, 80877104)
                with self._lock:
                    self.seen += 1
                    cut = self.after and self.seen >= self.after
                if cut and not self.passing:
                    return
                server.sendall(message)
                if cut:
                    return
        except OSError:
            return
        finally:
            self._end(client)
            self._end(server)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                client.sendall(data)
        self._end(client)
        self._end(server)

    def _end(self, sock: socket.socket) -> None:
        self._open.discard(sock)
        with contextlib.suppress(OSError):
            if self.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown(socket.SHUT_RD if self.reset else socket.SHUT_RDWR)
        sock.close()
