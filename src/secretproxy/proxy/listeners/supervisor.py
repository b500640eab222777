"""`secretproxy run`: one process, or a supervisor and its workers on shared sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import structlog

from secretproxy.config import Settings
from secretproxy.ops import health, logs, service
from secretproxy.ops.metrics import Board, Metrics
from secretproxy.proxy.authentication.throttle import LoginThrottle
from secretproxy.proxy.capacity import Capacity, Share
from secretproxy.proxy.listeners.server import Server, check_usable, read_keys
from secretproxy.proxy.listeners.sockets import open_sockets, socket_files

log: Any = structlog.get_logger("secretproxy")

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def run(settings: Settings) -> int:
    """Serves in the foreground until SIGTERM or SIGINT. Returns the exit status. Raises ConfigError."""
    check_usable(settings)
    keys = read_keys(settings)
    _keep_memory_private()
    _raise_descriptor_limit()
    logs.configure(settings.log)
    sockets = open_sockets(settings)
    files = socket_files(sockets)
    health_socket = health.open_socket(settings.health)
    throttle = LoginThrottle(settings.auth.failures_per_address, settings.auth.failures_per_user)
    capacity = Capacity(settings)
    board = Board(settings.worker_count)
    try:
        if settings.worker_count == 1:
            service.run(_serve(settings, keys, capacity.share(0), Metrics(board), sockets, health_socket, throttle))
            return 0
        return _supervise(settings, keys, capacity, board, sockets, health_socket, throttle)
    finally:
        for file in files:
            file.remove()


async def _serve(
    settings: Settings,
    keys: dict[int, bytes],
    share: Share,
    metrics: Metrics,
    sockets: list[socket.socket],
    health_socket: socket.socket | None,
    throttle: LoginThrottle,
) -> None:
    server = Server(settings, keys, metrics, throttle, share)
    watching = asyncio.create_task(health.serve(server, health_socket)) if health_socket is not None else None
    try:
        await server.serve(sockets)
    finally:
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


def _supervise(
    settings: Settings,
    keys: dict[int, bytes],
    capacity: Capacity,
    board: Board,
    sockets: list[socket.socket],
    health_socket: socket.socket | None,
    throttle: LoginThrottle,
) -> int:
    """Forks the workers, restarts one that dies, hands SIGTERM on and waits for all."""
    # Long because signals and ended workers are handled in one loop.
    workers: dict[int, tuple[int, float]] = {}
    stopping = False

    def reload(number: int, frame: object) -> None:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        reload(number, frame)

    def start(place: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _work(
                parent,
                lambda: _serve(
                    settings, keys, capacity.share(place), Metrics(board, place), sockets, health_socket, throttle
                ),
            )
        workers[pid] = (place, time.monotonic())

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
    for place in range(settings.worker_count):
        start(place)
    while workers:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            break
        place, began = workers.pop(pid, (-1, 0.0))
        if stopping or place < 0:
            continue
        log.error("worker died, starting another", status=os.waitstatus_to_exitcode(status))
        if time.monotonic() - began < 1:
            time.sleep(1)
        if not stopping:
            start(place)
    return 0


def _work(parent: int, serve: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Runs a worker in a process that was just forked; ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    status = 1
    try:
        service.run(serve())
        status = 0
    except BaseException as error:
        log.error("worker failed", kind=type(error).__name__)
    finally:
        service.end(status)


def _keep_memory_private() -> None:
    """Disables core dumps, and leaves /proc of this process to root: its memory contains client data."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def _raise_descriptor_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
