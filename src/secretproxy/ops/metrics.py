"""Counters, gauges and histograms in memory that all workers share, so that any of them can tell the sum.

Each worker writes its own row and reads everybody's. A worker that is started again goes on counting where its
predecessor stopped. No metric has a label that a client could fill.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from secretproxy import __version__
from secretproxy.ops.value import Durations, Value
from secretproxy.session.events import Event

# Upper bounds of the buckets of a duration, in seconds.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# How the gauges of several workers become one.
_SUM, _LEAST = "sum", "least"


@dataclass(frozen=True, slots=True)
class _Kind:
    """One time series: `name` as Prometheus shows it, without a counter's suffix."""

    name: str
    help: str
    type: str = "counter"
    labels: tuple[tuple[str, str], ...] = ()
    merge: str = _SUM

    @property
    def width(self) -> int:
        return len(BUCKETS) + 2 if self.type == "histogram" else 1


def _gauge(name: str, help: str, merge: str = _SUM) -> _Kind:  # noqa: A002 - as Prometheus calls it
    return _Kind(name, help, "gauge", (), merge)


def _refused(reason: str) -> _Kind:
    return _Kind(
        "secretproxy_sessions_refused",
        "Connections that became no session, by the setting",
        labels=(("setting", reason),),
    )


_REFUSALS = (
    "listen.max_sessions", "listen.max_connections", "listen.tls", "listen.drain_timeout", "listen.login_timeout",
    "auth.failures_per_address", "auth.failures_per_user", "backend.hosts",
)  # fmt: skip
_KINDS: dict[str, _Kind] = {
    "workers": _gauge("secretproxy_workers", "Processes that share the port"),
    "sessions": _gauge("secretproxy_sessions_open", "Sessions now"),
    "connections": _gauge(
        "secretproxy_connections_open", "Connections of clients now, with those that are no session yet"
    ),
    "sessions_total": _Kind("secretproxy_sessions", "Sessions since the start"),
    **{f"refused {setting}": _refused(setting) for setting in _REFUSALS},
    "attempts": _Kind("secretproxy_attempts", "Events committed before their statement went on, or its answer"),
    "uncovered": _Kind("secretproxy_uncovered_calls", "Calls that only the backend's testimony showed"),
    "refused": _Kind("secretproxy_refused", "Statements refused for want of the log"),
    "failed_logins": _Kind("secretproxy_failed_logins", "Logins with a wrong password"),
    "forgeries": _Kind("secretproxy_forgeries", "Testimonies with a wrong MAC"),
    "backend_failures": _Kind("secretproxy_backend_failures", "Sessions that found no backend"),
    "backend_up": _gauge("secretproxy_backend_available", "1 while a server of backend.hosts answers", _LEAST),
    "events": _Kind("secretproxy_events_written", "Events written to the access log"),
    "backlog": _gauge("secretproxy_events_waiting", "Events waiting for the access log"),
    "log_up": _gauge("secretproxy_log_available", "1 while the access log takes events", _LEAST),
    "commit": _Kind("secretproxy_commit_seconds", "Time that a group of events took until it was durable", "histogram"),
    "hold": _Kind("secretproxy_hold_seconds", "Time that an answer was held for the access log", "histogram"),
    "catalog": _Kind("secretproxy_catalog_read_seconds", "Time that a look at a database's catalog took", "histogram"),
    "cpu": _Kind("process_cpu_seconds", "User and system CPU time of all workers in seconds"),
    "rss": _gauge("process_resident_memory_bytes", "Resident memory of all workers in bytes"),
    "fds": _gauge("process_open_fds", "Open file descriptors of all workers"),
    "most_fds": _gauge("process_max_fds", "Open file descriptors that one worker may have", _LEAST),
    "began": _gauge("process_start_time_seconds", "Start of the oldest worker since the Unix epoch in seconds", _LEAST),
}
_PLACES: dict[str, int] = {}
_WIDTH = 0
for _name, _kind in _KINDS.items():
    _PLACES[_name] = _WIDTH
    _WIDTH += _kind.width


class Board:
    """The numbers of all workers. Made before they are forked."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._numbers: memoryview[float] = memoryview(mmap.mmap(-1, 8 * _WIDTH * workers)).cast("d")

    def row(self, worker: int) -> memoryview[float]:
        return self._numbers[worker * _WIDTH : (worker + 1) * _WIDTH]

    def rows(self) -> list[memoryview[float]]:
        """Gives the rows of workers that have begun."""
        began = _PLACES["began"]
        return [row for row in map(self.row, range(self.workers)) if row[began]]


class Metrics:
    """One worker's view of the board."""

    def __init__(self, board: Board | None = None, worker: int = 0) -> None:
        self._board = board or Board()
        row = self._row = self._board.row(worker)
        for name, kind in _KINDS.items():
            if kind.type == "gauge":
                row[_PLACES[name]] = 0.0
        self._cpu_before = row[_PLACES["cpu"]]
        self._events_before = row[_PLACES["events"]]
        self.workers = self._value("workers")
        self.sessions = self._value("sessions")
        self.connections = self._value("connections")
        self.sessions_total = self._value("sessions_total")
        self.attempts = self._value("attempts")
        self.uncovered = self._value("uncovered")
        self.refused = self._value("refused")
        self.failed_logins = self._value("failed_logins")
        self.forgeries = self._value("forgeries")
        self.backend_failures = self._value("backend_failures")
        self.backend_up = self._value("backend_up")
        self.backlog = self._value("backlog")
        self.log_up = self._value("log_up")
        self.commit = Durations(row, _PLACES["commit"], BUCKETS)
        self.hold = Durations(row, _PLACES["hold"], BUCKETS)
        self.catalog = Durations(row, _PLACES["catalog"], BUCKETS)
        self.workers.set(1)
        self.backend_up.set(1)
        self._value("began").set(time.time())
        self._value("most_fds").set(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.look_at_process()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def _value(self, name: str) -> Value:
        return Value(self._row, _PLACES[name])

    def refuse_session(self, setting: str) -> None:
        """Counts a connection that became no session because of this setting."""
        self._value(f"refused {setting}").inc()

    def wrote(self, events: int) -> None:
        """Says how many events this worker's journal has written."""
        self._value("events").set(self._events_before + events)

    def committed(self, seconds: float) -> None:
        """Takes note of a group of events that became durable after so long: what waited for it goes on now, and was
        counted before."""
        self.attempts.write()
        self.commit.observe(seconds)

    def count_testified(self, events: Iterable[Event]) -> bool:
        """Counts what testimony showed: calls, and messages that were none. Gives whether there was one of those."""
        forged = False
        for event in events:
            if event.event == "forgery":
                forged = True
                self.forgeries.inc(event.calls or 1)
            elif event.event == "call":
                self.uncovered.inc()
        return forged

    def look_at_process(self) -> None:
        """Measures this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._value("cpu").set(self._cpu_before + used.ru_utime + used.ru_stime)
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open("/proc/self/statm", "rb") as file:
                self._value("rss").set(int(file.read().split()[1]) * resource.getpagesize())
            self._value("fds").set(len(os.listdir("/proc/self/fd")))

    def collect(self) -> Iterator[Any]:
        """Gives the text for Prometheus: the sum of all workers' numbers."""
        about = InfoMetricFamily("secretproxy_build", "What runs")
        about.add_metric([], {"version": __version__, "python": platform.python_version(), "compiled": compiled()})
        yield about
        rows = self._board.rows()
        families: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            place = _PLACES[name]
            labels = [value for _, value in kind.labels]
            if kind.type == "histogram":
                yield self._histogram(kind, rows, place)
                continue
            make = CounterMetricFamily if kind.type == "counter" else GaugeMetricFamily
            family = families.get(kind.name)
            if family is None:
                family = families[kind.name] = make(kind.name, kind.help, labels=[label for label, _ in kind.labels])
            values = [row[place] for row in rows]
            family.add_metric(labels, min(values) if kind.merge == _LEAST else sum(values))
        yield from families.values()

    @staticmethod
    def _histogram(kind: _Kind, rows: list[memoryview[float]], place: int) -> HistogramMetricFamily:
        family = HistogramMetricFamily(kind.name, kind.help)
        buckets, so_far = [], 0.0
        for number, bound in enumerate([*map(str, BUCKETS), "+Inf"]):
            so_far += sum(row[place + number] for row in rows)
            buckets.append((bound, so_far))
        family.add_metric([], buckets, sum(row[place + len(BUCKETS) + 1] for row in rows))
        return family

    def text(self) -> bytes:
        return generate_latest(self.registry)


def compiled() -> str:
    """Says how the hot path runs: `compiled` or `pure`."""
    from secretproxy.wire import messages

    return "pure" if str(messages.__file__).endswith(".py") else "compiled"
