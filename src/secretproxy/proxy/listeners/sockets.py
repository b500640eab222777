"""Listening sockets: made of the settings, named in the log, their files removed at the end."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secretproxy.config import ConfigError, Settings, socket_file

BACKLOG: Final = 1024


def name_of(sock: socket.socket) -> str:
    """Gives a socket's place as the log names it."""
    if sock.family == socket.AF_UNIX:
        return str(sock.getsockname())
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_sockets(settings: Settings) -> list[socket.socket]:
    """Opens the listening sockets of the settings. Raises ConfigError."""
    listen = settings.listen
    sockets: list[socket.socket] = []
    port = listen.port
    if listen.host:
        try:
            found = socket.getaddrinfo(listen.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, proto, _, address = found[0]
            sock = socket.socket(family, kind, proto)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"listen.host, listen.port: cannot listen on {listen.host}:{port}: {error.strerror or error}"
            ) from None
        sock.setblocking(False)
        port = sock.getsockname()[1]
        sockets.append(sock)
    if listen.unix_socket_dir is not None:
        sockets.append(_unix_socket(listen.unix_socket_dir, port))
    return sockets


def _unix_socket(directory: Path, port: int) -> socket.socket:
    path = socket_file(directory, port)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise ConfigError(f"listen.unix_socket_dir: another server listens on {path}")
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o777)
        sock.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"listen.unix_socket_dir: cannot listen on {path}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a Unix socket, while it is the one that was made."""

    path: str
    inode: tuple[int, int]

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == self.inode:
                os.unlink(self.path)


def socket_files(sockets: list[socket.socket]) -> list[SocketFile]:
    """Lists the files to remove at the end. Call it at the start: a closed socket does not know its name any more."""
    found = []
    for sock in sockets:
        if sock.family == socket.AF_UNIX:
            status = os.stat(sock.getsockname())
            found.append(SocketFile(sock.getsockname(), (status.st_dev, status.st_ino)))
    return found
