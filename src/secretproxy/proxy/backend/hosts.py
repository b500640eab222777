"""Chooses the server of backend.hosts for a session: in order, every address of a name, of the kind in
target_session_attrs.

libpq logs in and asks the server what it is. In mode scram the proxy does so too (login.py). In mode passthrough it
cannot log in before the client does, so it asks each server beforehand, over and over, on a connection of its own; what
a server then reports at the login itself is checked against it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from secretproxy.config import Host, Settings, revealed
from secretproxy.connections import FAILURES, ConnectError, Place, cause_of, connect, login_refused
from secretproxy.proxy.backend.connect import AddressUnreachableError, BackendUnreachableError, Target, resolve
from secretproxy.proxy.backend.itself import Itself
from secretproxy.proxy.backend.tls import monitor_tls

log: Any = structlog.get_logger("secretproxy.backend")

# Seconds that an address which did not answer is tried last: one login waits for it, not every one.
_SILENT_SECONDS = 10.0
# Seconds for which a server that refused the login is not asked again: it writes a FATAL into its log each time.
_REFUSED_SECONDS = 5.0
_ASK = (
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('default_transaction_read_only') "
    "OPERATOR(pg_catalog.=) 'on'"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """The role that a server reports."""

    standby: bool
    read_only: bool

    @classmethod
    def reported(cls, parameters: Mapping[str, str]) -> Kind | None:
        """Reads the kind from the ParameterStatus of a login; None before PostgreSQL 14, which does not report it."""
        standby, read_only = parameters.get("in_hot_standby"), parameters.get("default_transaction_read_only")
        if standby is None or read_only is None:
            return None
        return cls(standby == "on", read_only == "on")

    def suits(self, attrs: str) -> bool:
        """Says whether libpq would accept it for this target_session_attrs (fe-connect.c, CONNECTION_CHECK_TARGET)."""
        if attrs in ("standby", "prefer-standby"):
            return self.standby
        if attrs == "primary":
            return not self.standby
        writable = not self.standby and not self.read_only
        return {"read-write": writable, "read-only": not writable}.get(attrs, True)

    def __str__(self) -> str:
        return "it is a standby" if self.standby else "it is read-only" if self.read_only else "it is a primary"


class Hosts:
    """The servers of one process. `watching` where it has to know their kinds beforehand."""

    def __init__(self, settings: Settings) -> None:
        backend = settings.backend
        self.attrs = backend.target_session_attrs
        self._hosts = backend.addresses
        self._timeout = backend.connect_timeout
        self.itself = Itself(settings.listen)
        self._interval = backend.monitor_interval
        self.watching = self.attrs != "any" and settings.auth.mode == "passthrough"
        dsn = backend.monitor_dsn or settings.audit.dsn
        self._dsn = revealed(dsn)
        self._backend = backend
        self._kinds: dict[Host, dict[Target, Kind | str]] = {}
        self._connections: dict[Target, Any] = {}
        # The servers that refused the login: until when they are not asked again, and what they said.
        self._refused: dict[Target, tuple[float, str]] = {}
        self._looks: dict[Host, asyncio.Event] = {host: asyncio.Event() for host in self._hosts}
        self._looked = asyncio.Condition()
        self._silent: dict[Target, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if self.watching:
            self._tasks = [asyncio.create_task(self._watch(host), name=f"watch {host}") for host in self._hosts]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in self._connections.values():
            connection.terminate()

    async def addresses(self) -> tuple[list[Target], list[str]]:
        """Gives every address of every server in the order of the tries, and the error of each name that has none."""
        found: list[Target] = []
        causes = []
        for host in self._hosts:
            try:
                for target in await resolve(host, self._timeout):
                    why = self.itself.why(target)
                    if why is None:
                        found.append(target)
                    else:
                        causes.append(why)
            except AddressUnreachableError as error:
                causes.append(str(error))
        now = time.monotonic()
        return sorted(found, key=lambda target: self._silent.get(target, 0.0) > now), causes

    def silent(self, target: Target) -> None:
        """Notes that an address did not answer."""
        now = time.monotonic()
        self._silent = {one: until for one, until in self._silent.items() if until > now} | {
            target: now + _SILENT_SECONDS
        }

    async def candidates(self) -> list[Target]:
        """Gives the servers for a session, in the order of the tries. Raises BackendUnreachableError."""
        if not self.watching:
            found, causes = await self.addresses()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known(), self._timeout)
            found, causes = self._suitable()
            if not found:
                # The servers may be changing places just now: what they say must not be old.
                await self.look_again()
                found, causes = self._suitable()
        if not found:
            raise BackendUnreachableError("; ".join(causes))
        return found

    async def _known(self) -> None:
        async with self._looked:
            await self._looked.wait_for(lambda: len(self._kinds) == len(self._hosts))

    def _suitable(self) -> tuple[list[Target], list[str]]:
        found, others, causes = [], [], []
        for host in self._hosts:
            for target, kind in self._kinds.get(host, {}).items():
                if isinstance(kind, str):
                    causes.append(kind)
                elif kind.suits(self.attrs):
                    found.append(target)
                else:
                    others.append(target)
                    causes.append(f"{target}: {kind} (backend.target_session_attrs = {self.attrs})")
        return found + (others if self.attrs == "prefer-standby" else []), causes

    async def look_again(self) -> None:
        """Asks all servers now, and waits for their answers as long as they may take."""
        before = dict(self._kinds)
        self.doubt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout), self._looked:
                await self._looked.wait_for(
                    lambda: all(self._kinds.get(host) is not before.get(host) for host in self._hosts)
                )

    def doubt(self) -> None:
        """Notes that a server did not behave as its known kind predicts."""
        for event in self._looks.values():
            event.set()

    def kind(self, target: Target) -> Kind | str | None:
        """Gives what is known of an address."""
        return self._kinds.get(target.host, {}).get(target)

    async def _watch(self, host: Host) -> None:
        event = self._looks[host]
        while True:
            event.clear()
            try:
                targets = await resolve(host, self._timeout)
            except AddressUnreachableError as error:
                kinds: dict[Target, Kind | str] = {Target(host, host.host): str(error)}
            else:
                kinds = dict(zip(targets, await asyncio.gather(*map(self._ask, targets)), strict=True))
            for target, kind in kinds.items():
                if kind != self.kind(target):
                    log.info("server", server=str(target), state=kind if isinstance(kind, str) else str(kind))
            for target in self._kinds.get(host, {}):
                if target not in kinds and target in self._connections:
                    self._connections.pop(target).terminate()
            async with self._looked:
                self._kinds[host] = kinds
                self._looked.notify_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), self._interval)

    async def _ask(self, target: Target) -> Kind | str:
        why = self.itself.why(target)
        if why is not None:
            return why
        until, said = self._refused.pop(target, (0.0, ""))
        if until > time.monotonic():
            self._refused[target] = until, said
            return said
        try:
            connection = self._connections.get(target)
            if connection is None or connection.is_closed():
                connection = self._connections[target] = await self._connect(target)
            row = await connection.fetchrow(_ASK, timeout=max(1.0, self._interval))
            return Kind(bool(row[0]), bool(row[1]))
        except FAILURES as error:
            lost = self._connections.pop(target, None)
            if lost is not None:
                lost.terminate()
            asked = isinstance(error, asyncpg.PostgresError | ConnectError)
            said = f"{target}: {cause_of(error)}{' (backend.monitor_dsn)' if asked else ''}"
            if login_refused(error):
                self._refused[target] = time.monotonic() + _REFUSED_SECONDS, said
            return said

    async def _connect(self, target: Target) -> Any:
        return await connect(
            self._dsn,
            "secretproxy monitor",
            timeout=self._timeout,
            command_timeout=self._timeout,
            # It is of the requested kind.
            settings={"default_transaction_read_only": None},
            places=[Place(target.address, None, target.host.port)],
            target_session_attrs="any",
            tls=monitor_tls(self._backend, target.host),
        )
