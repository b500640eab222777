"""Recognises this proxy among the servers of backend.hosts: by its own address, and by a mark that comes back.

A proxy before itself would open a session for each session until none fits. The address shows it at once, whatever name
leads to it. What a forwarder, a load balancer or another proxy hides shows by the mark in the startup packet of the
catalog's reader: a setting that PostgreSQL takes and nobody reads, signed with the testimony key, which only a proxy of
the same key can have sent."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from secretproxy.config import Host, ListenSettings, Settings, socket_file
from secretproxy.connections import ConnectError
from secretproxy.proxy.backend.connect import Target

# What a proxy answers to a mark of its own.
SQLSTATE = "SPX02"
SETTING = "secretproxy.proxy"
LEADS_BACK = "it leads back to secretproxy itself: name PostgreSQL's own address (backend.hosts)"
_IS_HERE = "it is secretproxy's own address, by listen: name PostgreSQL's own address (backend.hosts)"


class Itself:
    """The addresses on which this proxy listens, and the servers that lead back to it in other ways."""

    def __init__(self, listen: ListenSettings) -> None:
        self._port = listen.port
        self._socket = socket_file(listen.unix_socket_dir, listen.port) if listen.unix_socket_dir is not None else None
        self._address = _first_address(listen.host, listen.port) if listen.host else None
        self.leading_back: frozenset[Host] = frozenset()

    def why(self, target: Target) -> str | None:
        """Gives the reason why a session must not go to this address, None if it may."""
        if target.host in self.leading_back:
            return f"{target}: {LEADS_BACK}"
        return f"{target}: {_IS_HERE}" if self._is_here(target) else None

    def _is_here(self, target: Target) -> bool:
        if target.host.is_unix:
            try:
                return self._socket is not None and Path(target.host.socket_path).samefile(self._socket)
            except OSError:
                return False
        if target.host.port != self._port or self._address is None:
            return False
        try:
            address = _plain(target.address)
        except ValueError:
            return False
        if not self._address.is_unspecified:
            return address == self._address or (address.is_unspecified and self._address.is_loopback)
        if self._address.version == 4 and address.version == 6:
            return False
        return address.is_loopback or address.is_unspecified or _is_local(address)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _plain(text: str) -> _Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _first_address(host: str, port: int) -> _Address | None:
    """Gives the address that the listening socket is bound to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _plain(str(found[0][4][0]))
    except (OSError, ValueError):
        return None


def _is_local(address: _Address) -> bool:
    """Says whether it is an address of this machine: the route to such an address begins at itself. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            return _plain(str(sock.getsockname()[0])) == address
    except OSError:
        return False


async def leading_back(settings: Settings, connect: Callable[[Host], Awaitable[Any]]) -> frozenset[Host]:
    """Lists the servers of backend.hosts that answer the proxy's mark as a proxy of the same key does."""
    found = set()
    for host in settings.backend.addresses:
        try:
            (await connect(host)).terminate()
        except ConnectError as error:
            if error.sqlstate == SQLSTATE:
                found.add(host)
        except Exception:  # noqa: S112 - others say what is the matter
            continue
    return frozenset(found)
