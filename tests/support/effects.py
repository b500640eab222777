"""Provides what a session without sockets gives its interpreter (secretproxy.session.interpreter): all of it written to
one object, a method for each thing that the proxy would do."""

from __future__ import annotations

from typing import Any

from secretproxy.session.interpreter import Connection


class SocketEffects:
    """Does nothing where the proxy would pause a socket, flush or take note; ends by the violation itself."""

    def flush_backend(self) -> None:
        pass

    def pause_client(self) -> None:
        pass

    def resume_client(self) -> None:
        pass

    def pause_backend(self) -> None:
        pass

    def resume_backend(self) -> None:
        pass

    def end_backend_input(self) -> None:
        pass

    def ready(self) -> None:
        pass

    def idle_reported(self) -> None:
        pass

    def unannounced(self) -> None:
        pass

    def defined(self) -> None:
        pass

    def login_may_proceed(self) -> bool:
        return True

    def owns_process(self) -> bool:
        return True

    def end_by_client(self, violation: Exception) -> None:
        raise violation

    def end_by_backend(self, violation: Exception) -> None:
        raise violation

    def unreadable_backend(self, violation: Exception) -> None:
        raise violation


class ToClient(Connection):
    """The connection to the client."""

    def __init__(self, effects: Any) -> None:
        self._effects = effects

    def write(self, data: bytes) -> None:
        self._effects.send_to_client(data)

    def write_coalesced(self, data: bytes) -> None:
        self._effects.send_to_client_soon(data)

    def pause(self, paused: bool) -> None:
        if paused:
            self._effects.pause_client()
        else:
            self._effects.resume_client()


class ToBackend(Connection):
    """The connection to the backend."""

    def __init__(self, effects: Any) -> None:
        self._effects = effects

    def write(self, data: bytes) -> None:
        self._effects.send_to_backend(data)

    def write_coalesced(self, data: bytes) -> None:
        raise AssertionError("a backend is not kept waiting")

    def pause(self, paused: bool) -> None:
        if paused:
            self._effects.pause_backend()
        else:
            self._effects.resume_backend()


class ToLog:
    """The way to the log."""

    def __init__(self, effects: Any) -> None:
        self._effects = effects

    def record(self, events: list[Any]) -> None:
        self._effects.record(events)

    def commit_attempts(self, step: object, interpreter: object) -> None:
        self._effects.commit_attempts(step)

    def commit_testimony(self, step: object, interpreter: object) -> None:
        self._effects.commit_testimony(step)

    def seal(self, running: object, interpreter: object) -> None:
        pass

    def commit_access(self, step: object, interpreter: object) -> None:
        self._effects.commit_access(step)

    def refused(self, events: list[Any], attempts: int) -> None:
        self._effects.refused(events, attempts)


def given(effects: Any) -> tuple[Any, Any, Any, Any]:
    """Gives client, backend, log and effects for an Interpreter: all of it one object."""
    return ToClient(effects), ToBackend(effects), ToLog(effects), effects
