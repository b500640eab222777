"""The recorder of a console: where it writes, and who is written down as the reader."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import secrets
import uuid

from starlette.requests import Request

from secretproxy.audit.recorder import Recorder
from secretproxy.config import Settings
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.proxy.service_connection import connect_log
from secretproxy.session.events import Identity

APPLICATION = "secretproxy console"


def recorder_of(settings: Settings) -> Recorder:
    """Makes a recorder that writes to the log of this configuration's proxies. Raises ConfigError."""
    connect = functools.partial(connect_log, settings, "secretproxy journal of reviews")
    return Recorder(settings, connect, mask_key(settings))


def mask_key(settings: Settings) -> bytes:
    """Gives the key that masks names: the proxies' key, so that equal names look equal, or a random one."""
    try:
        keys = load_key_file(settings.testimony.key_file)
    except KeyFileError:
        return secrets.token_bytes(32)
    return keys[max(keys)]


def identity_of(request: Request, session_id: uuid.UUID, user: str, database: str) -> Identity:
    """Gives the identity of the signed-in user for the log. The browser chooses nothing of it except its address."""
    client = request.client
    address = None
    if client is not None:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(client.host)
    return Identity(
        session_id, user, database, APPLICATION, address, None if address is None or client is None else client.port,
        tls=request.url.scheme == "https",
    )  # fmt: skip
