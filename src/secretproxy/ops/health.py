"""/healthz, /readyz, /logz and /metrics on a port of their own.

/healthz: the process lives. /readyz: it listens and a backend answers, so that statements are served. /logz: secret
calls are, too, and what is logged of them is right. Each but /healthz answers 503 and why in JSON where that is not so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from secretproxy.config import ConfigError, HealthSettings
from secretproxy.ops.metrics import Metrics


class JournalState(Protocol):
    @property
    def available(self) -> bool: ...
    @property
    def taking(self) -> bool: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def backlog(self) -> int: ...


class ProbeState(Protocol):
    @property
    def backend(self) -> str | None: ...


class ProofState(Protocol):
    @property
    def errors(self) -> list[str]: ...
    @property
    def warnings(self) -> list[str]: ...


class ServerState(Protocol):
    listening: bool
    metrics: Metrics

    @property
    def draining(self) -> bool: ...
    @property
    def probe(self) -> ProbeState: ...
    @property
    def journal(self) -> JournalState: ...
    @property
    def proofs(self) -> ProofState: ...
    def publish(self) -> None: ...


def application(server: ServerState) -> Starlette:
    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        reasons = []
        if server.draining:
            reasons.append("shutting down")
        elif not server.listening:
            reasons.append("not listening yet")
        if server.probe.backend is not None:
            reasons.append(f"no backend answers (backend.hosts): {server.probe.backend}")
        warnings = [] if server.journal.taking else [_log_fault(server.journal)]
        warnings += [*server.proofs.errors, *server.proofs.warnings]
        body = {"status": "not ready" if reasons else "ready", "reasons": reasons, "warnings": warnings}
        return JSONResponse(body, status_code=503 if reasons else 200)

    async def logz(request: Request) -> Response:
        journal = server.journal
        reasons = [] if journal.available else [_log_fault(journal)]
        reasons += server.proofs.errors
        status = "available" if journal.available else "spooling" if journal.taking else "unavailable"
        if journal.taking and server.proofs.errors:
            status = "wrong key"
        body = {
            "status": status,
            "reasons": reasons,
            "warnings": server.proofs.warnings,
            "events_waiting": journal.backlog,
        }
        return JSONResponse(body, status_code=200 if journal.taking and not server.proofs.errors else 503)

    async def metrics(request: Request) -> Response:
        server.publish()
        server.metrics.look_at_process()
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/logz", logz), Route("/metrics", metrics)]
    )


def _log_fault(journal: JournalState) -> str:
    return f"the access log cannot be written (audit.dsn): {journal.fault}"


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the proxy's."""
        yield


def open_socket(settings: HealthSettings) -> socket.socket | None:
    """Opens the listening socket; None if health is off. Raises ConfigError."""
    if not settings.port:
        return None
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        raise ConfigError(
            f"health.host, health.port: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from None


async def serve(server: ServerState, sock: socket.socket) -> None:
    """Answers until cancelled."""
    config = uvicorn.Config(application(server), log_config=None, access_log=False, lifespan="off")
    running = _Uvicorn(config)
    try:
        await running.serve(sockets=[sock])
    except asyncio.CancelledError:
        running.should_exit = True
        raise
