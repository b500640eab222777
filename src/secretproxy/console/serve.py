"""Serves the console, with TLS or on this machine alone, until a signal ends it."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path

import uvicorn

from secretproxy.config import ConfigError, Settings
from secretproxy.connections import Conninfo, ConninfoError, read
from secretproxy.console.app import Console
from secretproxy.console.pages import PAGES
from secretproxy.console.recording import recorder_of
from secretproxy.ops import logs, service
from secretproxy.proxy.client.tls import web_context

# Requests at once, live pages among them; more are answered 503.
MOST_REQUESTS = 300
# Seconds that downloads may continue after a signal to end.
LAST_SECONDS = 3


def serve(dsn: str | None, settings: Settings, config: Path | None, host: str, port: int) -> None:
    """Serves until a signal ends it. Raises ConfigError."""
    logs.configure(settings.log)
    server, url = server_of(dsn, settings, config, host, port)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}; see --host and --port") from None
    print(f"the console is at {url}", flush=True)
    try:
        service.run(server.serve(sockets=[listening]))
    except KeyboardInterrupt:
        service.end(130)
    service.end(0 if server.started else 3)


def server_of(
    dsn: str | None, settings: Settings, config: Path | None, host: str, port: int
) -> tuple[uvicorn.Server, str]:
    """Makes the server, and the address that browsers open. Raises ConfigError."""
    conninfo = database_of(dsn)
    context = web_context(settings.listen)
    if context is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} is reached from elsewhere, and without TLS a password would be too: set listen.tls, "
            "listen.tls_cert and "
            "listen.tls_key, or take --host 127.0.0.1"
        )
    console = Console(conninfo, settings, config, recorder_of(settings), tls=context is not None)

    def given(config: uvicorn.Config, default: object) -> ssl.SSLContext:
        assert context is not None
        return context

    made = uvicorn.Config(
        console.application(PAGES), host=host, port=port, http="h11", ws="none", lifespan="on", interface="asgi3",
        log_config=None,
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=MOST_REQUESTS,
        timeout_graceful_shutdown=LAST_SECONDS, ssl_context_factory=None if context is None else given,
        ssl_certfile=None if context is None else settings.listen.tls_cert,
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    return uvicorn.Server(made), f"{'http' if context is None else 'https'}://{shown}:{port}/"


def database_of(dsn: str | None) -> Conninfo:
    """Gives the log's database. Raises ConfigError."""
    try:
        found = read(dsn)
        found.database  # noqa: B018 - raises where there is none
    except ConninfoError as error:
        raise ConfigError(f"--dsn, audit.review_dsn: {error}") from None
    return found


def is_loopback(host: str) -> bool:
    """Says whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
