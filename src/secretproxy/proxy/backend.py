"""Connections to the backend: which server, how long to wait, and what to say when none answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from secretproxy.config import Host

P = TypeVar("P", bound=asyncio.BaseProtocol)


class BackendUnreachable(Exception):  # noqa: N818 - says what is the matter
    """No server of backend.hosts can be reached; the text says which were tried and why each failed."""


async def connect(factory: Callable[[], P], hosts: Sequence[Host], timeout: float) -> tuple[P, Host]:
    """The first server that takes a connection, in the order of `hosts`. Raises BackendUnreachable."""
    loop = asyncio.get_running_loop()
    causes = []
    for host in hosts:
        try:
            async with asyncio.timeout(timeout):
                if host.is_unix:
                    _, protocol = await loop.create_unix_connection(factory, host.socket_path)
                else:
                    _, protocol = await loop.create_connection(factory, host.host, host.port)
        except TimeoutError:
            causes.append(f"{host}: no answer within {timeout:g} s")
        except OSError as error:
            causes.append(f"{host}: {(error.strerror or type(error).__name__).lower()}")
        else:
            return protocol, host
    raise BackendUnreachable("; ".join(causes))
