"""Counters and gauges of one process, without labels that a client could fill."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from secretproxy.session.events import Event


class Metrics:
    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sessions = Gauge("secretproxy_sessions_open", "Sessions now", registry=registry)
        self.sessions_total = Counter("secretproxy_sessions_total", "Sessions since the start", registry=registry)
        self.attempts = Counter(
            "secretproxy_attempts_total", "Events committed before their statement went on", registry=registry
        )
        self.uncovered = Counter(
            "secretproxy_uncovered_calls_total",
            "Calls that only the backend's testimony showed",
            registry=registry,
        )
        self.refused = Counter("secretproxy_refused_total", "Statements refused for want of the log", registry=registry)
        self.failed_logins = Counter("secretproxy_failed_logins_total", "Logins with a wrong password", registry=registry)
        self.forgeries = Counter("secretproxy_forgeries_total", "Testimonies with a wrong MAC", registry=registry)
        self.events = Gauge("secretproxy_events_written", "Events written to the access log", registry=registry)
        self.backlog = Gauge("secretproxy_events_waiting", "Events waiting for the access log", registry=registry)
        self.log_up = Gauge("secretproxy_log_available", "1 while the access log takes events", registry=registry)

    def count_testified(self, events: Iterable[Event]) -> None:
        """Counts what testimony showed: calls, and messages that were none."""
        for event in events:
            if event.event == "forgery":
                self.forgeries.inc(event.calls or 1)
            else:
                self.uncovered.inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
