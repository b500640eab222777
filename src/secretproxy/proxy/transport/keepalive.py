"""TCP options that notice a peer which has vanished without a word."""

from __future__ import annotations

import contextlib
import socket

from secretproxy.config import KeepaliveSettings

# Where a system lacks one of them, its own ways stay.
_OPTIONS = (
    ("TCP_KEEPIDLE", "tcp_keepalives_idle"),
    ("TCP_KEEPINTVL", "tcp_keepalives_interval"),
    ("TCP_KEEPCNT", "tcp_keepalives_count"),
    ("TCP_USER_TIMEOUT", "tcp_user_timeout"),
)


def keep_alive(sock: socket.socket, settings: KeepaliveSettings) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, setting in _OPTIONS:
        value = getattr(settings, setting)
        if value and hasattr(socket, option):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
