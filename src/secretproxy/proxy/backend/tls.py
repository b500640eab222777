"""TLS with backends: the context made of the settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from secretproxy.config import BackendSettings, Host
from secretproxy.proxy.transport.secured import ALPN, Directions, load_ca, load_pair


@dataclass(slots=True)
class BackendTls:
    """The TLS of backend connections: none without a context, clear text as a fallback if it is not `required`."""

    context: ssl.SSLContext | None = None
    required: bool = False

    @classmethod
    def of(cls, settings: BackendSettings) -> BackendTls:
        """Reads the settings. Raises ConfigError."""
        return cls(backend_context(settings), settings.tls != "prefer")

    def renew(self, settings: BackendSettings) -> None:
        """Reads certificate and authorities again, for connections from now on. Raises ConfigError, and keeps what it
        has then."""
        self.context = backend_context(settings)


def monitor_tls(settings: BackendSettings, host: Host) -> ssl.SSLContext | str | bool:
    """Gives the TLS of a service connection to one server: "prefer", False for none, or the context. Raises
    ConfigError."""
    secured = backend_context(settings, host.host)
    if settings.tls == "prefer":
        return "prefer"
    return False if secured is None or host.is_unix else secured


class _Named(ssl.SSLContext):
    """Checks a server by the name it is known by, where whoever connects was given its address."""

    server_name: str | None = None

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return super().wrap_bio(
            *arguments, **(named | {"server_hostname": self.server_name or named.get("server_hostname")})
        )


def backend_context(settings: BackendSettings, server_name: str | None = None) -> ssl.SSLContext | None:
    """Makes the context for the backend, None if TLS is off. Raises ConfigError.

    As in libpq, `require` checks the certificate only if an authority is named, `verify-full` always and with the
    host's name: the name given at the handshake, or `server_name` whatever is given there.
    """
    if settings.tls == "off":
        return None
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.sslobject_class = Directions
    context.server_name = server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    context.check_hostname = settings.tls == "verify-full"
    if settings.tls_ca is not None:
        load_ca(context, settings.tls_ca, "backend.tls_ca")
    elif settings.tls == "verify-full":
        context.load_default_certs()
    else:
        context.verify_mode = ssl.CERT_NONE
    if settings.tls_cert is not None:
        load_pair(context, settings.tls_cert, settings.tls_key or settings.tls_cert, "backend")
    return context
