"""One proxy process: its listeners, its sessions, its journal, and how it ends.

Carries out `serve` from the first listening socket to the last event. Knows nothing of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.config import ConfigError, Host, Settings, socket_file
from secretproxy.detect import Detector
from secretproxy.detect.detector import Allowance
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.ops.metrics import Metrics, compiled
from secretproxy.proxy import tls
from secretproxy.proxy.backend import Tls
from secretproxy.proxy.cancel import Cancels
from secretproxy.proxy.catalog import Catalogs
from secretproxy.proxy.catalog import connect as connect_catalog
from secretproxy.proxy.failures import Failures
from secretproxy.proxy.hosts import Hosts
from secretproxy.proxy.itself import leading_back
from secretproxy.proxy.login import Logins
from secretproxy.proxy.own import connect_log
from secretproxy.proxy.parsers import Parsers
from secretproxy.proxy.probe import Probe
from secretproxy.proxy.proof import Proofs
from secretproxy.proxy.relay import ClientSide
from secretproxy.proxy.room import Seat
from secretproxy.proxy.startup import Client
from secretproxy.proxy.users import UsersFile, users_of
from secretproxy.session.session import Limits
from secretproxy.session.testimony import Keys

log: Any = structlog.get_logger("secretproxy")

BACKLOG = 1024
# Cancel requests that are on their way to the backend at once; more wait.
_MOST_CANCELLING = 32
# Seconds until a server that led back to this proxy is asked again.
_ITSELF_AGAIN = 10.0
# Seconds that statements get to end once they are cancelled for the proxy's shutdown.
STOP_SECONDS = 3.0


class Server:
    """Sessions of one process. Listening sockets come from outside, so that workers can share them."""

    def __init__(self, settings: Settings, keys: dict[int, bytes], metrics: Metrics, failures: Failures, seat: Seat) -> None:
        self.settings = settings
        self.metrics = metrics
        self.keys = Keys(keys, self._newer_keys)
        self._keys_read = _changed_at(settings.testimony.key_file)
        self.tls = tls.listen_context(settings.listen)
        self.tls_binding = tls.listen_binding(settings.listen)
        self.backend_tls = Tls.of(settings.backend)
        self._allowance = Allowance(asyncio.get_running_loop().call_soon)
        self.detector = self._new_detector()
        limits = settings.limits
        self.parsers = Parsers(limits.parse_processes, limits.parse_timeout, limits.parse_thread_bytes)
        self.proofs = Proofs(settings, self.keys, self._connect_catalog, self.spawn)
        self.catalogs = Catalogs(
            settings,
            self._new_detector,
            self._connect_catalog,
            self.spawn,
            self.parsers,
            metrics.catalog.observe,
            self.proofs.bring,
        )
        self.limits = Limits(
            limits.max_message,
            limits.max_statement_memory,
            limits.parse_thread_bytes,
            refuse_large=limits.large_statements == "refuse",
            max_prepared=limits.max_prepared,
        )
        self.cancelling = asyncio.Semaphore(_MOST_CANCELLING)
        mask = self.mask = NameMask(limits.max_name, settings.monitor.name_patterns, keys[max(keys)])
        audit = settings.audit
        self.journal = Journal(
            self._connect_log,
            mask,
            timeout=audit.timeout,
            signer=None
            if audit.checkpoint_key_file is None
            else Signer(audit.checkpoint_key_file, audit.checkpoint_file, audit.checkpoint_command),
            checkpoint_every=audit.checkpoint_every,
            checkpoint_seconds=audit.checkpoint_seconds,
            spool_dir=audit.spool_dir if audit.on_outage == "spool" else None,
            spool_max_bytes=audit.spool_max_bytes,
            took=metrics.commit.observe,
        )
        self.hosts = Hosts(settings)
        self.cancels = Cancels(self.hosts, settings.backend.connect_timeout, self.backend_tls)
        # Open sessions by the backend processes behind a pooler that are theirs.
        self.pooled: dict[tuple[str, int, int | None], ClientSide] = {}
        self.logins: Logins | None = None
        if settings.auth.mode == "scram":
            users = users_of(settings.auth, settings.backend.connect_timeout)
            # The oldest key: an unknown user's salt should outlive a rotation as a known one's does.
            stand_in = hmac.digest(keys[min(keys)], b"secretproxy unknown users", "sha256")
            failed = metrics.failed_logins.inc
            self.logins = Logins(
                settings.auth, settings.backend, users, self.hosts, failures, stand_in, mask, failed, self.refused
            )
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.listening = False
        self._connections: set[ClientSide] = set()
        self._admitted: set[ClientSide] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._seat = seat
        self.probe = Probe(self)
        self._refusals: dict[str, int] = {}

    def _newer_keys(self) -> dict[int, bytes] | None:
        """The keys of the file where it has changed since it was read last."""
        changed = _changed_at(self.settings.testimony.key_file)
        if changed == self._keys_read:
            return None
        self._keys_read = changed
        try:
            return load_key_file(self.settings.testimony.key_file)
        except KeyFileError as error:
            log.error("keys not read again, the old ones stay", problem=str(error))
            return None

    def reload(self) -> None:
        """SIGHUP: what the configuration names is read again; the configuration itself is not."""
        keys = self._newer_keys()
        if keys is not None:
            self.keys.replace(keys)
            self.proofs.again()
        self.renew_tls()
        if self.logins is not None:
            try:
                self.logins.users.reload()
            except ConfigError as error:
                log.error("users not read again, the old ones stay", problem=str(error))
        log.info("reloaded", keys=sorted(keys) if keys is not None else "unchanged")

    def renew_tls(self) -> None:
        """A new context for clients: with the certificate as it is now, and without the sessions that clients of TLS 1.2 could resume."""
        try:
            secured, binding = tls.listen_context(self.settings.listen), tls.listen_binding(self.settings.listen)
            self.tls, self.tls_binding = secured, binding
        except ConfigError as error:
            log.error("certificate not read again, the old one stays", problem=str(error))

    def _new_detector(self) -> Detector:
        return Detector(self.settings.monitor.schemas, self.settings.monitor.tables, self._allowance)

    async def _connect_log(self) -> Any:
        return await connect_log(self.settings)

    async def _connect_catalog(self, database: str) -> Any:
        return await connect_catalog(self.settings, database, self.backend_tls, self.keys.mark(secrets.token_bytes(16)))

    async def look_for_itself(self) -> None:
        """Finds out which servers of backend.hosts lead back here, and asks those again that did."""

        async def reached(host: Host) -> Any:
            return await connect_catalog(self.settings, None, self.backend_tls, self.keys.mark(secrets.token_bytes(16)), host)

        while True:
            found = await leading_back(self.settings, reached)
            if found != self.hosts.itself.leading_back:
                if found:
                    log.error(
                        "backend.hosts leads back to this proxy: sessions are refused there",
                        servers=sorted(map(str, found)), setting="backend.hosts",
                    )  # fmt: skip
                self.hosts.itself.leading_back = found
                self.hosts.doubt()
                self.probe.failed()
            if not found:
                return
            await asyncio.sleep(_ITSELF_AGAIN)

    @property
    def sessions(self) -> int:
        return len(self._admitted)

    def opened(self, client: ClientSide) -> bool:
        """Whether one more connection fits."""
        fits = self._seat.connection_fits
        self._connections.add(client)
        self._empty.clear()
        self._count()
        return fits

    def _count(self) -> None:
        self._seat.update(len(self._admitted), len(self._connections))
        self.metrics.sessions.set(len(self._admitted))
        self.metrics.connections.set(len(self._connections))

    def publish(self) -> None:
        """Brings what others are told of this process up to date."""
        self.metrics.wrote(self.journal.written)
        self.metrics.backlog.set(self.journal.backlog)
        self.metrics.log_up.set(self.journal.available)

    def refused(self, setting: str, *, session: str, client: str) -> None:
        """A connection became no session because of this setting. Says which at once, and then once a second how many more there were."""
        self.metrics.refuse_session(setting)
        waiting = self._refusals.get(setting)
        if waiting is None:
            self._refusals[setting] = 0
            self._say_refused(setting, 1, session=session, client=client)
        else:
            self._refusals[setting] = waiting + 1

    def _say_refused(self, setting: str, count: int, **first: str) -> None:
        words = "logins refused: too many have failed" if setting.startswith("auth.") else "sessions refused"
        log.warning(words, count=count, setting=setting, **first)
        self.loop.call_later(1.0, self._refused_since, setting)

    def _refused_since(self, setting: str) -> None:
        count = self._refusals.pop(setting, 0)
        if count:
            self._refusals[setting] = 0
            self._say_refused(setting, count)

    def admit(self, client: ClientSide) -> bool:
        """Whether one more session fits."""
        if not self._seat.session_fits:
            return False
        self._admitted.add(client)
        self._count()
        self.metrics.sessions_total.inc()
        return True

    def closed(self, client: ClientSide) -> None:
        self._connections.discard(client)
        self._admitted.discard(client)
        self._count()
        if not self._connections:
            self._empty.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)
        return task

    def _spawned_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error", kind=type(task.exception()).__name__)

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Serves until SIGTERM or SIGINT, lets open transactions finish, and flushes the journal."""
        self.loop.set_exception_handler(_quiet)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._signalled, stop)
        self.loop.add_signal_handler(signal.SIGHUP, self.reload)
        self.hosts.start()
        await self.journal.start()
        await self.proofs.start()
        servers = [await self._listen(sock) for sock in sockets]
        self.listening = True
        self.probe.start()
        self.spawn(self.look_for_itself())
        names = [_name(sock) for sock in sockets]
        log.info("listening", on=names, backend=self.settings.backend.hosts, pid=os.getpid(), build=compiled())
        await stop.wait()
        await self._drain(servers)

    async def _listen(self, sock: socket.socket) -> asyncio.AbstractServer:
        def factory() -> Any:
            return Client(self)

        if sock.family == socket.AF_UNIX:
            return await self.loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)
        return await self.loop.create_server(factory, sock=sock, backlog=BACKLOG)

    def _signalled(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            # Asked twice: no more waiting.
            self._empty.set()
        stop.set()

    async def _drain(self, servers: list[asyncio.AbstractServer]) -> None:
        self.draining = True
        self.listening = False
        log.info("shutting down", sessions=len(self._connections), setting="listen.drain_timeout")
        for server in servers:
            server.close()
        for client in list(self._connections):
            if client.session is None or (client.session.idle and not client.busy):
                client.dismiss()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self.settings.listen.drain_timeout)
        for client in list(self._connections):
            client.dismiss()
        if self._connections:
            # What still runs has been cancelled; what it testified to before belongs into the log.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), STOP_SECONDS)
        for client in list(self._connections):
            client.abandon()
        for task in list(self._tasks):
            task.cancel()
        self.probe.stop()
        await self.parsers.close()
        await self.hosts.stop()
        left = await self.journal.close()
        if left:
            log.error("events could not be written to the access log", events=left, setting="audit.dsn")
        log.info("stopped", events=self.journal.written)


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own words can quote buffers and frames: only what kind of thing happened is said."""
    error = context.get("exception")
    if isinstance(error, ConnectionError | BrokenPipeError | TimeoutError):
        return
    log.error("internal error", kind=type(error).__name__ if error is not None else "event loop")


def _name(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return str(sock.getsockname())
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_sockets(settings: Settings) -> list[socket.socket]:
    """The listening sockets of the settings. Raises ConfigError."""
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
    """The files to remove at the end. Asked for at the start: a socket that is closed does not know its name any more."""
    found = []
    for sock in sockets:
        if sock.family == socket.AF_UNIX:
            status = os.stat(sock.getsockname())
            found.append(SocketFile(sock.getsockname(), (status.st_dev, status.st_ino)))
    return found


def read_keys(settings: Settings) -> dict[int, bytes]:
    """The keys of testimony.key_file. Raises ConfigError."""
    try:
        return load_key_file(settings.testimony.key_file)
    except KeyFileError as error:
        raise ConfigError(str(error)) from None


def check_usable(settings: Settings) -> None:
    """Refuses certificates and a users file that cannot be used. Raises ConfigError."""
    tls.listen_context(settings.listen)
    tls.backend_context(settings.backend)
    if settings.auth.mode == "scram" and settings.auth.users_file is not None:
        UsersFile(settings.auth.users_file)
