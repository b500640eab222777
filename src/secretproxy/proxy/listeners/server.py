"""One proxy process: its listeners, what its clients share, its journal, and how it ends.

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
from pathlib import Path
from typing import Any, TypeVar

import structlog

from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.config import ConfigError, Host, Settings
from secretproxy.detect import Detector
from secretproxy.detect.detector import Allowance
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.ops.metrics import Metrics, compiled
from secretproxy.proxy.admission import Admission
from secretproxy.proxy.authentication.login import Logins
from secretproxy.proxy.authentication.throttle import LoginThrottle
from secretproxy.proxy.authentication.verifiers import UsersFile, users_of
from secretproxy.proxy.backend.cancel import Cancels
from secretproxy.proxy.backend.hosts import Hosts
from secretproxy.proxy.backend.itself import leading_back
from secretproxy.proxy.backend.tls import BackendTls, backend_context
from secretproxy.proxy.capacity import Share
from secretproxy.proxy.catalog.proof import Proofs
from secretproxy.proxy.catalog.reading import connect as connect_catalog
from secretproxy.proxy.catalog.watcher import Catalogs
from secretproxy.proxy.client.endpoint import ClientEndpoint
from secretproxy.proxy.client.handshake import Handshake
from secretproxy.proxy.client.stage import ClientStage
from secretproxy.proxy.client.tls import ClientTls, listen_context
from secretproxy.proxy.listeners.probe import Probe
from secretproxy.proxy.listeners.sockets import BACKLOG, name_of
from secretproxy.proxy.parsing.pool import Parsers
from secretproxy.proxy.runtime import BackendProcesses, Runtime, Tasks
from secretproxy.proxy.service_connection import connect_log
from secretproxy.proxy.transport.direct import AVAILABLE, DirectReading
from secretproxy.session.session import Limits
from secretproxy.session.testimony import Keys

log: Any = structlog.get_logger("secretproxy")
_Result = TypeVar("_Result")

# Cancel requests that are on their way to the backend at once; more wait.
_MOST_CANCELLING = 32
# Seconds before a server that led back to this proxy is asked again.
_ITSELF_AGAIN = 10.0
# Seconds that statements get to end once they are cancelled for the proxy's shutdown.
STOP_SECONDS = 3.0


class KeyRing:
    """The keys of testimony.key_file, read again where it has changed."""

    def __init__(self, path: Path, keys: dict[int, bytes]) -> None:
        self._path = path
        self._read = _changed_at(path)
        self.keys = Keys(keys, self.newer)

    def newer(self) -> dict[int, bytes] | None:
        """Gives the keys of the file where it has changed since it was read last."""
        changed = _changed_at(self._path)
        if changed == self._read:
            return None
        self._read = changed
        try:
            return load_key_file(self._path)
        except KeyFileError as error:
            log.error("keys not read again, the old ones stay", problem=str(error))
            return None


class Server:
    """Sessions of one process. Listening sockets come from outside, so that workers can share them."""

    def __init__(
        self, settings: Settings, keys: dict[int, bytes], metrics: Metrics, throttle: LoginThrottle, share: Share
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        self.listening = False
        self._tls = ClientTls(settings.listen)
        self._backend_tls = BackendTls.of(settings.backend)
        self._key_ring = KeyRing(settings.testimony.key_file, keys)
        self._tasks = Tasks()
        self.runtime = self._new_runtime(keys, throttle, share)
        self.journal = self.runtime.journal
        self.proofs = self.runtime.proofs

    def _new_runtime(self, keys: dict[int, bytes], throttle: LoginThrottle, share: Share) -> Runtime:
        # Long because it names all that the clients of a process share.
        settings, metrics = self.settings, self.metrics
        limits, monitor = settings.limits, settings.monitor
        mask = NameMask(limits.max_name, settings.monitor.name_patterns, keys[max(keys)])
        backend_tls = self._backend_tls
        hosts = Hosts(settings)
        admission = Admission[ClientEndpoint](share, metrics)
        parsers = Parsers(limits.parse_processes, limits.parse_timeout, limits.parse_thread_bytes)
        allowance = Allowance(self.loop.call_soon)

        def new_detector() -> Detector:
            return Detector(monitor.schemas, monitor.tables, allowance)

        journal = self._new_journal(mask)
        proofs = Proofs(settings, self._key_ring.keys, self._connect_catalog, self._tasks.spawn)
        self.probe = Probe(settings, journal, hosts, metrics, self.publish, backend_tls)
        return Runtime(
            settings=settings,
            metrics=metrics,
            journal=journal,
            hosts=hosts,
            cancels=Cancels(hosts, settings.backend.connect_timeout, backend_tls),
            catalogs=Catalogs(
                settings,
                new_detector,
                self._connect_catalog,
                self._tasks.spawn,
                parsers,
                metrics.catalog.observe,
                proofs.bring,
            ),
            proofs=proofs,
            parsers=parsers,
            logins=self._new_logins(keys, hosts, throttle, mask, admission),
            backend_tls=backend_tls,
            keys=self._key_ring.keys,
            detector=new_detector(),
            limits=Limits(
                limits.max_message,
                limits.max_statement_memory,
                limits.parse_thread_bytes,
                refuse_large=limits.large_statements == "refuse",
                max_prepared=limits.max_prepared,
            ),
            mask=mask,
            admission=admission,
            spawn=self._tasks.spawn,
            backend_failed=self.probe.failed,
            processes=BackendProcesses(),
            cancelling=asyncio.Semaphore(_MOST_CANCELLING),
            reading=DirectReading(self.loop) if AVAILABLE else None,
        )

    def _new_journal(self, mask: NameMask) -> Journal:
        audit = self.settings.audit
        signer = None
        if audit.checkpoint_key_file is not None:
            signer = Signer(audit.checkpoint_key_file, audit.checkpoint_file, audit.checkpoint_command)
        return Journal(
            self._connect_log,
            mask,
            timeout=audit.timeout,
            signer=signer,
            checkpoint_every=audit.checkpoint_every,
            checkpoint_seconds=audit.checkpoint_seconds,
            spool_dir=audit.spool_dir if audit.on_outage == "spool" else None,
            spool_max_bytes=audit.spool_max_bytes,
            took=self.metrics.committed,
        )

    def _new_logins(
        self,
        keys: dict[int, bytes],
        hosts: Hosts,
        throttle: LoginThrottle,
        mask: NameMask,
        admission: Admission[ClientEndpoint],
    ) -> Logins | None:
        settings = self.settings
        if settings.auth.mode != "scram":
            return None
        users = users_of(settings.auth, settings.backend.connect_timeout)
        # The oldest key: an unknown user's salt should outlive a rotation as a known one's does.
        stand_in = hmac.digest(keys[min(keys)], b"secretproxy unknown users", "sha256")
        failed = self.metrics.failed_logins.inc
        return Logins(
            settings.auth, settings.backend, users, hosts, throttle, stand_in, mask, failed, admission.refused,
            admission.count,
        )  # fmt: skip

    async def _connect_log(self) -> Any:
        return await connect_log(self.settings)

    async def _connect_catalog(self, database: str) -> Any:
        return await connect_catalog(self.settings, database, self._backend_tls, self._mark())

    def _mark(self) -> str:
        """Gives the mark by which this proxy recognises itself."""
        return self._key_ring.keys.mark(secrets.token_bytes(16))

    async def look_for_itself(self) -> None:
        """Finds out which servers of backend.hosts lead back here, and asks those again that did."""
        itself = self.runtime.hosts.itself

        async def reached(host: Host) -> Any:
            return await connect_catalog(self.settings, None, self._backend_tls, self._mark(), host)

        while True:
            found = await leading_back(self.settings, reached)
            if found != itself.leading_back:
                if found:
                    log.error(
                        "backend.hosts leads back to this proxy: sessions are refused there",
                        servers=sorted(map(str, found)),
                        setting="backend.hosts",
                    )
                itself.leading_back = found
                self.runtime.hosts.doubt()
                self.probe.failed()
            if not found:
                return
            await asyncio.sleep(_ITSELF_AGAIN)

    # --- what the health page asks ---

    @property
    def draining(self) -> bool:
        return self.runtime.admission.draining

    def publish(self) -> None:
        """Publishes this process's numbers for the other workers."""
        self.metrics.attempts.write()
        self.metrics.wrote(self.journal.written)
        self.metrics.backlog.set(self.journal.backlog)
        self.metrics.log_up.set(self.journal.available)

    # --- its life ---

    def reload(self) -> None:
        """Reads the files that the configuration names again (SIGHUP); not the configuration itself."""
        keys = self._key_ring.newer()
        if keys is not None:
            self._key_ring.keys.replace(keys)
            self.runtime.proofs.again()
        self._tls.renew()
        try:
            self._backend_tls.renew(self.settings.backend)
        except ConfigError as error:
            log.error("certificates of the backend not read again, the old ones stay", problem=str(error))
        logins = self.runtime.logins
        if logins is not None:
            try:
                logins.users.reload()
            except ConfigError as error:
                log.error("users not read again, the old ones stay", problem=str(error))
        log.info("reloaded", keys=sorted(keys) if keys is not None else "unchanged")

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Serves until SIGTERM or SIGINT, lets open transactions finish, and flushes the journal."""
        self.loop.set_exception_handler(_quiet)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._signalled, stop)
        self.loop.add_signal_handler(signal.SIGHUP, self.reload)
        self.runtime.hosts.start()
        servers = await _unless(stop, self._open(sockets))
        if servers is not None:
            self.listening = True
            self.probe.start()
            self._tasks.spawn(self.look_for_itself())
            names = [name_of(sock) for sock in sockets]
            log.info("listening", on=names, backend=self.settings.backend.hosts, pid=os.getpid(), build=compiled())
            await stop.wait()
        await self._drain(servers or [])

    async def _open(self, sockets: list[socket.socket]) -> list[asyncio.AbstractServer]:
        """Listens, once the log and the keys were tried, whatever came of it."""
        await self.journal.start()
        await self.runtime.proofs.start()
        return [await self._listen(sock) for sock in sockets]

    async def _listen(self, sock: socket.socket) -> asyncio.AbstractServer:
        if sock.family == socket.AF_UNIX:
            return await self.loop.create_unix_server(self._new_client, sock=sock, backlog=BACKLOG)
        return await self.loop.create_server(self._new_client, sock=sock, backlog=BACKLOG)

    def _new_client(self) -> Any:
        client = ClientEndpoint(self.settings.listen)
        Handshake(self.runtime, client, self._tls)
        return client

    def _signalled(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            # Asked twice: no more waiting.
            self.runtime.admission.empty.set()
        stop.set()

    def _stages(self) -> list[ClientStage]:
        """Gives the current stage of each client."""
        receivers = [client.receiver for client in self.runtime.admission.connections]
        return [receiver for receiver in receivers if isinstance(receiver, ClientStage)]

    async def _drain(self, servers: list[asyncio.AbstractServer]) -> None:
        admission = self.runtime.admission
        admission.draining = True
        self.listening = False
        log.info("shutting down", sessions=len(admission.connections), setting="listen.drain_timeout")
        for server in servers:
            server.close()
        for stage in self._stages():
            stage.drain()
        await self._wait_until_empty(self.settings.listen.drain_timeout)
        for stage in self._stages():
            stage.shut_down()
        # What still runs has been cancelled; what it testified to before belongs into the log.
        await self._wait_until_empty(STOP_SECONDS)
        for stage in self._stages():
            stage.abort()
        self._tasks.cancel()
        self.probe.stop()
        if self.runtime.reading is not None:
            self.runtime.reading.close()
        await self.runtime.parsers.close()
        await self.runtime.hosts.stop()
        left = await self.journal.close()
        if left:
            log.error("events could not be written to the access log", events=left, setting="audit.dsn")
        log.info("stopped", events=self.journal.written)

    async def _wait_until_empty(self, seconds: float) -> None:
        admission = self.runtime.admission
        if admission.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(admission.empty.wait(), seconds)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _Result]) -> _Result | None:
    """Gives the result of work; None where `stop` is set before it has one, and the work is broken off."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
            return None
        return working.result()
    finally:
        stopping.cancel()


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs only the kind of an error: asyncio's own messages can quote buffers and frames."""
    error = context.get("exception")
    if isinstance(error, ConnectionError | BrokenPipeError | TimeoutError):
        return
    log.error("internal error", kind=type(error).__name__ if error is not None else "event loop")


def read_keys(settings: Settings) -> dict[int, bytes]:
    """Reads the keys of testimony.key_file. Raises ConfigError."""
    try:
        return load_key_file(settings.testimony.key_file)
    except KeyFileError as error:
        raise ConfigError(str(error)) from None


def check_usable(settings: Settings) -> None:
    """Refuses certificates and a users file that cannot be used. Raises ConfigError."""
    listen_context(settings.listen)
    backend_context(settings.backend)
    if settings.auth.mode == "scram" and settings.auth.users_file is not None:
        UsersFile(settings.auth.users_file)
