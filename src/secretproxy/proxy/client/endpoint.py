"""One end of a session: a transport, when it is read from, and how it ends. What is read goes to a function, in a
session the interpreter's, and what becomes of the connection to a receiver.

Endpoints are asyncio.Protocols in all but their base: without one they are classes of their own to mypyc, and a chunk
costs half as much. Must not look into what they carry.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import uuid
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

from secretproxy.config import KeepaliveSettings
from secretproxy.proxy.transport.direct import GAP, DirectReading, Reader
from secretproxy.proxy.transport.keepalive import keep_alive
from secretproxy.proxy.transport.unread import unread
from secretproxy.session.interpreter import Connection, Interpreter

# Seconds that a peer gets to take what was written to it last before its connection is cut.
_LINGER: Final = 5.0
# Seconds that bytes may wait for those that come next, and how many may.
_COALESCING_SECONDS: Final = 0.002
_MOST_COALESCED: Final = 16_384
# Seconds that a client which was logged in may take to hang up once its session is over.
_HANG_UP: Final = 2.0


class OpenDirections(Enum):
    """The directions of a connection that have not ended: the peer's, which is read, and ours, which is written."""

    BOTH = "both"
    OURS = "ours"
    PEERS = "the peer's"
    NONE = "none"


_BOTH: Final = OpenDirections.BOTH
_OURS: Final = OpenDirections.OURS
_PEERS: Final = OpenDirections.PEERS
_NONE: Final = OpenDirections.NONE


class Receiver:
    """The receiver of changes of an endpoint's state."""

    def opened(self) -> None:
        """Is called when the connection is open."""

    def failed(self, error: BaseException) -> None:
        """Is called when a chunk could not be taken, for an unexpected error."""
        raise NotImplementedError

    def ended(self) -> bool:
        """Is called when the peer writes no more. Gives whether the connection stays open for pending output."""
        raise NotImplementedError

    def lost(self) -> None:
        """Is called when the connection is closed."""
        raise NotImplementedError

    def congested(self, full: bool) -> None:
        """Is called when the peer stops or resumes reading, to slow down whoever writes to it."""
        raise NotImplementedError


class _Flusher:
    """Endpoints whose bytes wait for those that come next; one timer for all of them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._endpoints: list[Endpoint] = []

    def add(self, endpoint: Endpoint) -> None:
        """Has what waits at an endpoint written in a moment, where nothing takes it along before."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or not self._endpoints:
            self._loop = loop
            self._endpoints = []
            loop.call_later(_COALESCING_SECONDS, self.write)
        self._endpoints.append(endpoint)

    def write(self) -> None:
        """Writes what waits."""
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            try:
                endpoint.flush()
            except Exception:
                # A session that hears nothing more of its answer must not be left standing, nor the others.
                endpoint.abort()


_flusher: Final = _Flusher()


class Endpoint(Connection):
    """The common part of both endpoints."""

    def __init__(self, keepalive: KeepaliveSettings) -> None:
        self.receiver: Receiver | None = None
        # Takes the chunks: the session's interpreter, where there is one.
        self._interpreter: Interpreter | None = None
        self._take: Callable[[bytes], None] | None = None
        self.transport: asyncio.Transport | None = None
        # The transport's write(), None where nothing more may be written.
        self._send: Callable[[bytes], object] | None = None
        self._keepalive: Final = keepalive
        self._directions = _BOTH
        self._paused = False
        self._peer_congested = False
        self._reading = True
        self._timer: asyncio.TimerHandle | None = None
        # What waits for the bytes that come next, and whether the timer knows of it.
        self._coalesced = b""
        self._flush_is_due = False
        # Reads in the transport's place, and may send what goes to this endpoint past it where nothing waits in it.
        self.reader: Reader | None = None
        # Its send(): compiled, one that is looked up for each chunk costs twice as much.
        self._send_directly: Callable[[bytes], bool] | None = None
        self._transport_waits = False
        # What broke the connection, as the reader says it; 0: nothing.
        self._broken_by = 0
        # Whether the connection is closed.
        self.is_lost = False

    def attach(self, receiver: Receiver, take: Callable[[bytes], None]) -> None:
        """Tells the receiver of changes of the connection's state from here on, and gives what is read to `take`."""
        self.receiver = receiver
        self._take = take
        self._interpreter = None

    def join(self, receiver: Receiver, interpreter: Interpreter) -> None:
        """Does the same, but hands what is read to the session's interpreter."""
        self.receiver = receiver
        self._interpreter = interpreter

    def interpret(self, interpreter: Interpreter, data: bytes, *, directly: bool) -> bool:
        """Hands a chunk to the interpreter, as one of this side. Gives whether the caller must send it on."""
        raise NotImplementedError

    def use(self, transport: asyncio.Transport) -> None:
        """Writes to this transport from here on."""
        self.transport = transport
        self._send = transport.write if self._writes() and not transport.is_closing() else None

    @property
    def has_ended(self) -> bool:
        """Says whether the peer writes no more."""
        return self._directions is _OURS or self._directions is _NONE

    @property
    def paused(self) -> bool:
        """Says whether the owner has paused reading."""
        return self._paused

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.use(cast(asyncio.Transport, transport))
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            keep_alive(sock, self._keepalive)
        if self.receiver is not None:
            self.receiver.opened()

    def data_received(self, data: bytes) -> None:
        interpreter, take = self._interpreter, self._take
        try:
            if interpreter is not None:
                self.interpret(interpreter, data, directly=False)
            elif take is not None:
                take(data)
        except (Exception, asyncio.CancelledError) as error:
            if self.receiver is not None:
                self.receiver.failed(error)

    def pause_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.congested(True)

    def resume_writing(self) -> None:
        if self.receiver is not None:
            self.receiver.congested(False)

    def eof_received(self) -> bool:
        self.note_end()
        if self.receiver is not None and self.receiver.ended():
            return True
        # The transport closes itself now.
        self._send = None
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._send = None
        self._let_go()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.receiver is not None:
            self.receiver.lost()

    # --- reading past the transport ---

    def read_directly(self, reading: DirectReading) -> None:
        """Reads past the transport from here on, if it has the socket for itself."""
        transport = self.transport
        if transport is None or transport.is_closing() or self.has_ended:
            return
        reader = self.reader = reading.reader(
            transport, self.take_directly, self._write_by_transport, self.end_directly
        )
        if reader is not None:
            self._send_directly = reader.send
            if self._reading:
                transport.pause_reading()
                reader.resume()
            # The login's last message may wait there still.
            self._transport_waits = True

    def join_directly(self, other: Endpoint) -> None:
        """Sends what comes from the other endpoint and goes on as it came past the transport, if both are read so."""
        if self.reader is not None and other.reader is not None:
            other.reader.join(self.reader)

    def take_directly(self, data: bytes) -> bool:
        """Takes a chunk that was read past the transport. Gives whether the reader must send it on."""
        interpreter = self._interpreter
        if interpreter is None:
            self.data_received(data)
            return False
        try:
            return self.interpret(interpreter, data, directly=True)
        except (Exception, asyncio.CancelledError) as error:
            self._fail(error)
            return False

    def end_directly(self, error: int) -> None:
        """Handles the end of what was read past the transport, or an error, as the transport would have; GAP where
        something that was read was lost."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if error != 0:
            self._broken_by = error
            transport.abort()
            return
        try:
            stays = self.eof_received()
        except BaseException:
            transport.abort()
            raise
        if not stays:
            transport.close()

    def _fail(self, error: BaseException) -> None:
        try:
            if self.receiver is not None:
                self.receiver.failed(error)
        except BaseException:
            # A session that nobody can end must not be left standing.
            self.abort()
            raise

    def takes_directly(self) -> bool:
        if self.reader is None or self._send is None or len(self._coalesced) > 0:
            return False
        if self._transport_waits:
            transport = self.transport
            # One that is being closed may have lost what it had.
            if transport is None or transport.get_write_buffer_size() > 0 or transport.is_closing():
                return False
            self._transport_waits = False
        return True

    # --- reading ---

    def pause(self, paused: bool) -> None:
        """Stops reading, or reads again, for its owner's sake."""
        self._paused = paused
        self._read_or_not()

    def slow_down(self, congested: bool) -> None:
        """Stops reading, or reads again, for the sake of the peer that what is read goes to."""
        self._peer_congested = congested
        self._read_or_not()

    def _read_or_not(self) -> None:
        reading = not self._paused and not self._peer_congested
        if reading is self._reading:
            return
        transport = self.transport
        if transport is not None and not transport.is_closing():
            self._reading = reading
            reader = self.reader
            if reader is not None:
                if reading:
                    reader.resume()
                else:
                    reader.pause()
            elif reading:
                transport.resume_reading()
            else:
                transport.pause_reading()

    # --- writing and ending ---

    def write_coalesced(self, data: bytes) -> None:
        """Writes with what is written next, or in a moment: two small writes wake the peer twice."""
        self._coalesced += data
        if len(self._coalesced) > _MOST_COALESCED:
            self.write(b"")
        elif not self._flush_is_due:
            self._flush_is_due = True
            _flusher.add(self)

    def flush(self) -> None:
        """Writes what has waited long enough."""
        self._flush_is_due = False
        self.write(b"")

    def write(self, data: bytes) -> None:
        if len(self._coalesced) > 0:
            data = self._coalesced + data
            self._coalesced = b""
        if len(data) == 0:
            return
        send = self._send_directly
        if send is None or not self.takes_directly() or not send(data):
            self._write_by_transport(data)

    def _write_by_transport(self, data: bytes) -> None:
        send = self._send
        if send is not None:
            self._transport_waits = True
            send(data)

    def _writes(self) -> bool:
        return self._directions is _BOTH or self._directions is _OURS

    def note_end(self) -> None:
        """Notes that the peer writes no more."""
        if self._directions is _BOTH:
            self._directions = _OURS
        elif self._directions is _PEERS:
            self._directions = _NONE

    def end_writing(self) -> None:
        """Ends our direction where the transport can still say so; what the peer still says is read."""
        self.write(b"")
        if self._writes() and self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self.write_no_more()

    def write_no_more(self) -> None:
        """Takes note that nothing more is written, whatever becomes of the transport."""
        self._send = None
        if self._directions is _BOTH:
            self._directions = _PEERS
        elif self._directions is _OURS:
            self._directions = _NONE

    def close(self) -> None:
        """Closes once what was written has gone out; a peer that does not take it in time is cut off."""
        self.write(b"")
        if self.transport is not None and not self.transport.is_closing():
            self._send = None
            self._stop_reading()
            # TLS does not know what the TCP connection below it has not sent yet.
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self.abort)
            self.transport.close()

    def close_after_peer(self) -> None:
        """Closes once the peer has had the time to read the last words and hang up: a socket that is closed with
        unread bytes resets its peer, which then loses them."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self.close()
            return
        self.end_writing()
        self._paused = self._peer_congested = False
        self._read_or_not()
        self._timer = asyncio.get_running_loop().call_later(_HANG_UP, self.close)

    def abort(self) -> None:
        """Cuts the connection; what was written may be lost."""
        self._send = None
        self._stop_reading()
        if self.transport is not None:
            self.transport.abort()

    def _stop_reading(self) -> None:
        """Reads no more past a transport that is being closed."""
        if self.reader is not None:
            self.reader.pause()

    def _let_go(self) -> None:
        """Lets go of the socket, whose number may be another connection's once it is closed."""
        reader, self.reader = self.reader, None
        self._send_directly = None
        if reader is not None:
            reader.close()


class BackendEndpoint(Endpoint):
    """The backend's end of a session. What it had said before its connection broke is received, too."""

    def __init__(self, keepalive: KeepaliveSettings) -> None:
        super().__init__(keepalive)
        # Whether its connection broke: some of what it said may never have come.
        self.broke = False

    def interpret(self, interpreter: Interpreter, data: bytes, *, directly: bool) -> bool:
        return interpreter.reads_backend(data, directly=directly)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        self.broke = (exc is not None or self._broken_by != 0) and not self.has_ended
        try:
            self._receive_unread()
        finally:
            self.note_end()
            super().connection_lost(exc)

    def _receive_unread(self) -> None:
        transport = self.transport
        if not self.broke or self._broken_by == GAP or transport is None or transport.get_extra_info("ssl_object"):
            return
        for data in unread(transport):
            self.data_received(data)


class ClientEndpoint(Endpoint):
    """The client's end of a session, from its first byte on: who it is by its address."""

    def __init__(self, keepalive: KeepaliveSettings) -> None:
        super().__init__(keepalive)
        self.id: Final = uuid.uuid4()
        # Whether it is in TLS.
        self.secured = False

    def interpret(self, interpreter: Interpreter, data: bytes, *, directly: bool) -> bool:
        return interpreter.reads_client(data, directly=directly)

    @property
    def session_id(self) -> str:
        """Gives the id that the log lines of this session share with its rows of the access log."""
        return str(self.id)

    @property
    def text(self) -> str:
        """Gives the client's address, as the log shows it."""
        return str(self.peer()[0] or "local")

    @property
    def source(self) -> bytes:
        """Gives the key by which failed logins are counted: an address, a network of IPv6, a local user."""
        address, _ = self.peer()
        if isinstance(address, ipaddress.IPv6Address):
            # Who has one address of a /64 has them all.
            return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64))).encode()
        if address is not None:
            return str(address).encode()
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or sock.family != socket.AF_UNIX:
            return b"unknown"
        return b"uid %d" % struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]

    def peer(self) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address | None, int | None]:
        """Address and port; None and None if it comes by a Unix socket."""
        assert self.transport is not None
        peer = self.transport.get_extra_info("peername")
        if not isinstance(peer, tuple) or len(peer) < 2:
            return None, None
        try:
            address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
        except ValueError:
            return None, None
        mapped = getattr(address, "ipv4_mapped", None)
        return mapped or address, int(peer[1])
