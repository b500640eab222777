"""Provides a client that speaks the protocol by hand, over a plain socket, and keeps every message it is sent.

Nothing is interpreted but the frame: a test says which messages go out, in which order and in how many pieces, and
compares what came back byte for byte. Authentication is `trust` alone."""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROTOCOL = 196608
SPX01 = b"CSPX01\0"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the backend's. The end of the connection is a message of kind b""."""

    kind: bytes
    body: bytes

    @property
    def sqlstate(self) -> str:
        for part in self.body.split(b"\0"):
            if part[:1] == b"C" and self.kind in (b"E", b"N"):
                return part[1:].decode("ascii")
        return ""

    def field(self, kind: bytes) -> bytes:
        """Gives a field of an ErrorResponse or NoticeResponse."""
        for part in self.body.split(b"\0"):
            if part[:1] == kind:
                return part[1:]
        return b""

    @property
    def text(self) -> bytes:
        """Gives the primary text of an ErrorResponse or NoticeResponse."""
        return self.field(b"M")

    @property
    def signed(self) -> bytes:
        """Gives the signed line of a testimony, which is in CONSTRAINT NAME if the session has no token."""
        return self.field(b"n") or self.text

    @property
    def testimony(self) -> bool:
        return self.kind == b"N" and self.sqlstate == "SPX01"

    def columns(self) -> list[bytes | None]:
        """Gives the columns of a DataRow."""
        pos, row = 2, []
        for _ in range(int.from_bytes(self.body[:2], "big")):
            size = int.from_bytes(self.body[pos : pos + 4], "big", signed=True)
            pos += 4
            row.append(None if size < 0 else self.body[pos : pos + size])
            pos += max(size, 0)
        return row


@dataclass(frozen=True, slots=True)
class Address:
    """The address that a client connects to, and its login."""

    host: str
    port: int
    database: str
    user: str = "app_user"


def startup(parameters: Mapping[str, str], protocol: int = PROTOCOL) -> bytes:
    """Makes a startup packet."""
    body = b"".join(encoded(key) + b"\0" + encoded(value) + b"\0" for key, value in parameters.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, protocol) + body


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def encoded(text: str | bytes, encoding: str = "utf-8") -> bytes:
    return text if isinstance(text, bytes) else text.encode(encoding)


def query(text: str | bytes) -> bytes:
    return message(b"Q", encoded(text) + b"\0")


def parse(text: str | bytes, name: str = "", types: Sequence[int] = ()) -> bytes:
    return message(
        b"P", name.encode() + b"\0" + encoded(text) + b"\0" + struct.pack(f"!H{len(types)}I", len(types), *types)
    )


def bind(
    values: Sequence[bytes | str | None] = (),
    *,
    portal: str = "",
    name: str = "",
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack(f"!H{len(formats)}h", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        raw = None if value is None else encoded(value)
        body += struct.pack("!i", -1) if raw is None else struct.pack("!i", len(raw)) + raw
    return message(b"B", body + struct.pack(f"!H{len(results)}h", len(results), *results))


def describe(name: str = "", kind: bytes = b"P") -> bytes:
    return message(b"D", kind + name.encode() + b"\0")


def execute(portal: str = "", limit: int = 0) -> bytes:
    return message(b"E", portal.encode() + b"\0" + struct.pack("!i", limit))


def close(name: str = "", kind: bytes = b"P") -> bytes:
    return message(b"C", kind + name.encode() + b"\0")


SYNC = message(b"S")
FLUSH = message(b"H")
COPY_DONE = message(b"c")
TERMINATE = message(b"X")


def copy_data(data: str | bytes) -> bytes:
    return message(b"d", encoded(data))


def copy_fail(why: str = "no") -> bytes:
    return message(b"f", why.encode() + b"\0")


def function_call(
    oid: int, values: Sequence[bytes | str | None], formats: Sequence[int] = (), result: int = 0
) -> bytes:
    body = struct.pack(f"!IH{len(formats)}hH", oid, len(formats), *formats, len(values))
    for value in values:
        raw = None if value is None else encoded(value)
        body += struct.pack("!i", -1) if raw is None else struct.pack("!i", len(raw)) + raw
    return message(b"F", body + struct.pack("!h", result))


def cancel_request(key: bytes) -> bytes:
    """Makes a CancelRequest from the body of a session's BackendKeyData."""
    return struct.pack("!II", len(key) + 8, 80877102) + key


def extended(text: str | bytes, values: Sequence[bytes | str | None] = (), types: Sequence[int] = ()) -> bytes:
    """Makes Parse, Bind, Describe and Execute of the unnamed statement, without Sync."""
    return parse(text, types=types) + bind(values) + describe() + execute()


class Raw:
    """One connection. `seen` holds all that the backend said, of this connection; `family` of every one opened from
    it."""

    def __init__(self, address: Address, family: list[list[Message]]) -> None:
        self.address = address
        self.seen: list[Message] = []
        self.family = family
        self.key = b""
        family.append(self.seen)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, address: Address, family: list[list[Message]] | None = None, **parameters: str) -> Raw:
        """Opens the connection, logs in and reads up to the first ReadyForQuery."""
        raw = await cls.open(address, family)
        given = {"user": address.user, "database": address.database, "client_encoding": "UTF8"} | parameters
        await raw.send(startup(given))
        await raw.ready()
        return raw

    @classmethod
    async def open(cls, address: Address, family: list[list[Message]] | None = None) -> Raw:
        """Opens the connection and says nothing."""
        raw = cls(address, [] if family is None else family)
        raw._reader, raw._writer = await asyncio.open_connection(address.host, address.port)
        return raw

    async def another(self, user: str | None = None, **parameters: str) -> Raw:
        """Opens a second connection in the same way."""
        address = Address(self.address.host, self.address.port, self.address.database, user or self.address.user)
        return await Raw.connect(address, self.family, **parameters)

    async def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))
        await self._writer.drain()

    async def drip(self, data: bytes, size: int = 1) -> None:
        """Sends in small pieces, each in a segment of its own as far as the kernel goes along."""
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def read(self) -> Message:
        try:
            head = await self._reader.readexactly(5)
            length = int.from_bytes(head[1:], "big")
            found = Message(head[:1], await self._reader.readexactly(length - 4))
        except (asyncio.IncompleteReadError, ConnectionError):
            found = Message(b"", b"")
        if found.kind == b"K":
            self.key = found.body
        self.seen.append(found)
        return found

    async def byte(self) -> None:
        """Reads a single byte, kept as a message without a body."""
        self.seen.append(Message(await self._reader.read(1), b""))

    async def until(self, kinds: bytes) -> list[Message]:
        """Reads up to a message of one of these types, or to the end of the connection."""
        got = []
        while True:
            got.append(await self.read())
            if not got[-1].kind or got[-1].kind in kinds:
                return got

    async def ready(self, count: int = 1) -> list[Message]:
        """Reads up to the ReadyForQuery of this number."""
        got: list[Message] = []
        for _ in range(count):
            got += await self.until(b"Z")
        return got

    async def query(self, text: str | bytes) -> list[Message]:
        """Sends a Query and reads its whole answer."""
        await self.send(query(text))
        return await self.ready()

    async def extended(
        self, text: str | bytes, values: Sequence[bytes | str | None] = (), types: Sequence[int] = ()
    ) -> list[Message]:
        """Sends Parse to Sync of the unnamed statement and reads the whole answer."""
        await self.send(extended(text, values, types), SYNC)
        return await self.ready()

    async def value(self, text: str) -> str:
        """Gives the first column of the first row of a query."""
        for found in await self.query(text):
            if found.kind == b"D":
                return (found.columns()[0] or b"").decode()
        raise AssertionError("the query gave no row")

    async def terminate(self) -> None:
        """Says goodbye and waits for the end of the connection."""
        if self._writer.is_closing():
            return
        try:
            await self.send(TERMINATE)
            while (await self.read()).kind:
                pass
        except ConnectionError:
            pass
        await self.hang_up()

    async def hang_up(self) -> None:
        """Closes the socket without a word."""
        self._writer.close()
        with contextlib.suppress(ConnectionError, OSError):
            await self._writer.wait_closed()


FIRST_OWN_OID = 16384


def answer(family: Sequence[Sequence[Message]], names: Sequence[str] = ()) -> list[bytes]:
    """Gives the backend's answer as comparable bytes: without testimony and keys, with own OIDs, process ids and
    `names` made equal.
    """
    out = []
    for seen in family:
        for found in seen:
            if found.kind == b"K" or found.testimony:
                continue
            body = found.body
            if found.kind == b"T":
                body = _without_oids(body)
            elif found.kind == b"t":
                count = int.from_bytes(body[:2], "big")
                oids = struct.unpack_from(f"!{count}I", body, 2)
                body = repr([min(oid, FIRST_OWN_OID) for oid in oids]).encode()
            elif found.kind == b"A":
                body = body[4:]
            for name in names:
                body = body.replace(name.encode(), b"<database>")
            if found.kind in (b"N", b"E"):
                # PostgreSQL 18 names a function's schema in CONTEXT, and a session's temporary one has the number of
                # its process.
                body = re.sub(rb"\bpg_temp_\d+\.", b"pg_temp.", body)
            out.append(found.kind + body)
    return out


def _without_oids(body: bytes) -> bytes:
    """Gives a RowDescription whose OIDs of user tables and types are all the same."""
    count, pos, out = int.from_bytes(body[:2], "big"), 2, [body[:2]]
    for _ in range(count):
        stop = body.index(b"\0", pos) + 1
        table, number, kind, rest = struct.unpack_from("!IhI8s", body, stop)
        out.append(
            body[pos:stop] + struct.pack("!IhI8s", min(table, FIRST_OWN_OID), number, min(kind, FIRST_OWN_OID), rest)
        )
        pos = stop + 18
    return b"".join(out)
