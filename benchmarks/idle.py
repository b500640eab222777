"""A backend that logs everybody in and then says nothing, so that thousands of sessions need no thousands of PostgreSQL
processes; and the clients of it. Run as a program it is the backend: `idle.py PORT`."""

from __future__ import annotations

import asyncio
import itertools
import resource
import struct
import sys

STARTUP = b"\0\3\0\0user\0postgres\0database\0postgres\0application_name\0idle\0\0"
_PIDS = itertools.count(1000)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


READY = message(b"Z", b"I")


def raise_descriptor_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length - 4)
        parameters = {
            "server_version": "15.0",
            "client_encoding": "UTF8",
            "in_hot_standby": "off",
            "default_transaction_read_only": "off",
        }
        said = [message(b"R", bytes(4))]
        said += [message(b"S", f"{name}\0{value}\0".encode()) for name, value in parameters.items()]
        said += [message(b"K", struct.pack("!ii", next(_PIDS), 1)), READY]
        writer.write(b"".join(said))
        while True:
            kind = await reader.readexactly(1)
            body = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
            if kind == b"Q":
                start = message(b"D", struct.pack("!hi", 1, 16) + b"1700000000000000")
                writer.write(
                    message(b"T", struct.pack("!h", 1) + b"s\0" + bytes(18))
                    + start
                    + message(b"C", b"SELECT 1\0")
                    + READY
                )
            elif kind == b"F":
                writer.write(message(b"V", struct.pack("!i", -1)) + READY)
            elif kind == b"X":
                break
            del body
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    raise_descriptor_limit()
    server = await asyncio.start_server(_attend, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def connect(port: int) -> asyncio.StreamWriter:
    """Opens a session."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(struct.pack("!i", len(STARTUP) + 4) + STARTUP)
    await reader.readuntil(READY)
    return writer


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
