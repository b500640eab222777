"""Checks that connections and sessions are counted until their sockets are closed."""

from __future__ import annotations

from secretproxy.config import ListenSettings, Settings
from secretproxy.ops.metrics import Metrics
from secretproxy.proxy.admission import Admission
from secretproxy.proxy.capacity import Capacity


def admission(most: int) -> Admission[str]:
    settings = Settings(listen=ListenSettings(max_sessions=most, max_connections=most))
    return Admission(Capacity(settings).share(0), Metrics())


def test_a_connection_that_lingers_is_counted_until_it_has_gone() -> None:
    """Whoever does not hang up makes no room for another connection by being refused."""
    counted = admission(2)
    for client in ("a", "b"):
        assert counted.opened(client)
    counted.closed("a", lingers=True)
    assert not counted.opened("c") and not counted.empty.is_set()
    counted.closed("c", lingers=False)
    counted.gone("a")
    assert counted.opened("d")


def test_a_session_that_has_ended_makes_room_for_another_and_is_not_waited_for() -> None:
    counted = admission(1)
    assert counted.opened("a") and counted.admit("a")
    counted.closed("a", lingers=True)
    assert counted.empty.is_set() and counted.connections == []
    assert counted.admit("b")
    counted.gone("a")
    counted.gone("a")
    assert counted.opened("c")
