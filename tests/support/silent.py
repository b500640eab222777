"""A TCP relay before a PostgreSQL server that falls silent: connections stay, and new ones are taken, but no byte comes
back any more.

So it is with a server whose processes are stopped, and with a cable that is cut.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType


class Silent:
    """Relays connections to a server until it is hushed. `hushed` says that it was."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._loop = asyncio.new_event_loop()
        self._left: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: list[asyncio.StreamWriter] = []
        self._connected = threading.Event()
        self.hushed = threading.Event()
        self.port = 0

    def hush(self, after: int = 0) -> None:
        """Falls silent, now or once so many pieces of what servers say have passed."""
        self._left = after
        if not after:
            self.hushed.set()

    def wait_for_connection(self, seconds: float) -> None:
        """Returns once a client has connected."""
        assert self._connected.wait(seconds), "nobody connected"

    def speak(self) -> None:
        """Lets bytes pass again; those of meanwhile are lost, as with a cable that was cut."""
        self._left = None
        self.hushed.clear()

    def __enter__(self) -> Silent:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        self._listener = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._listener.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._listener.close()
        # A server process whose connection stayed open here would keep its locks for the next test to wait for.
        for writer in self._open:
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        self._connected.set()
        there, thither = await asyncio.open_connection(*self._server)
        self._open.append(thither)
        await asyncio.gather(
            self._pass(reader, thither, False), self._pass(there, writer, True), return_exceptions=True
        )

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, back: bool) -> None:
        while data := await source.read(65_536):
            if back and self._left is not None:
                if self._left == 0:
                    self.hushed.set()
                    continue
                self._left -= 1
            target.write(data)
            await target.drain()
        target.close()
