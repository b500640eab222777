"""Effects that a session without sockets has no use for (secretproxy.session.interpreter.Effects)."""

from __future__ import annotations


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

    def ready(self) -> None:
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
