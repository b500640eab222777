"""Measures what a process of the proxy uses of the machine: memory, descriptors."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

KIB = 1024
MIB = 1024 * KIB


def memory(pid: int) -> int:
    """Gives the bytes of resident memory that are the process's own: no pages of libraries, none shared with other
    workers.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no RssAnon in /proc")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def accepted(pid: int, port: int) -> int:
    """Counts the connections to a TCP port on 127.0.0.1 that a process holds (proc_net_tcp.txt of Linux)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {f"socket:[{row[9]}]" for row in rows if int(row[1].partition(":")[2], 16) == port and row[3] == "01"}
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(entry) in established
    return count


def workers(pid: int) -> list[int]:
    """Lists the processes that a supervisor has started."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


class Growth:
    """The most that a process's memory grows while the block runs, looked at every two milliseconds."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.bytes = 0
        self._over = threading.Event()

    def __enter__(self) -> Growth:
        self._before = memory(self.pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, memory(self.pid) - self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()
