"""The two directions of a session: the one place where bytes go on, are held, are dropped or replaced, or wait.

A stream owns its framer, and its bytes go on in the order in which they came.
"""

from __future__ import annotations

from typing import Final

from secretproxy.session.statements import Running
from secretproxy.session.step import Held, Output, Step
from secretproxy.wire import framing
from secretproxy.wire.framing import Framer
from secretproxy.wire.types import BackendMessage, FrontendMessage

# What is read must be whole, everything else is seen by its type. Rows and COPY data pass unseen, but for answers to
# the proxy's own.
FROM_BACKEND_OWN: Final = framing.actions(
    mark=b"",
    whole=bytes(
        (
            BackendMessage.AUTHENTICATION, BackendMessage.BACKEND_KEY_DATA, BackendMessage.DATA_ROW,
            BackendMessage.ERROR_RESPONSE,
            BackendMessage.COMMAND_COMPLETE, BackendMessage.NEGOTIATE_PROTOCOL_VERSION, BackendMessage.NOTICE_RESPONSE,
            BackendMessage.PARAMETER_DESCRIPTION, BackendMessage.PARAMETER_STATUS, BackendMessage.READY_FOR_QUERY,
        )
    ),
)  # fmt: skip
FROM_BACKEND: Final = framing.passing(FROM_BACKEND_OWN, bytes((BackendMessage.DATA_ROW, BackendMessage.COPY_DATA)))
FROM_CLIENT: Final = framing.passing(
    framing.actions(
        mark=b"",
        whole=bytes(
            (
                FrontendMessage.BIND, FrontendMessage.CLOSE, FrontendMessage.DESCRIBE, FrontendMessage.EXECUTE,
                FrontendMessage.FUNCTION_CALL, FrontendMessage.PARSE, FrontendMessage.QUERY,
            )
        ),
    ),
    bytes((FrontendMessage.COPY_DATA,)),
)  # fmt: skip

_LONGEST_LENGTH: Final = 0x7FFFFFFF


class Stream:
    """One direction. Of the chunk under way, `_kept_from` is where the bytes begin that nothing was decided on yet."""

    def __init__(self, framer: Framer, output: Output) -> None:
        self.framer = framer
        self._output: Final = output
        self._kept_from = 0
        # Whether what goes on waits for the log.
        self._holding = False

    @property
    def streaming(self) -> bool:
        """Says whether a message has been forwarded in part."""
        return self.framer.streaming

    def begin(self, data: bytes) -> None:
        """Takes the next chunk."""
        self.framer.push(data)
        self._output.begin()
        self._kept_from = 0
        self._holding = False

    def let_on(self, data: bytes) -> None:
        """Lets data go on in its place in the stream: at once, or behind what waits."""
        step = self._output.made()
        if not self._holding:
            step.forward += data
        elif data:
            step.held.append(Held(data))

    def release(self, upto: int) -> None:
        """Forwards the buffer up to here."""
        self.let_on(self.framer.buffer[self._kept_from : upto])
        self._kept_from = upto

    def finish(self) -> bytes | Step:
        """Ends the chunk: gives the bytes to forward, or the Step if there is more to do."""
        framer = self.framer
        step = self._output.step
        if step is None:
            buffer, cut = framer.buffer, framer.cut
            return buffer if cut == len(buffer) else buffer[:cut]
        self.release(framer.cut)
        self._output.begin()
        return step


class ClientStream(Stream):
    """The client's bytes. Those that come before they may be read wait in `_waiting`."""

    def __init__(self, max_message: int, output: Output) -> None:
        super().__init__(Framer(FROM_CLIENT, max_message), output)
        self._max_message: Final = max_message
        self._waiting = bytearray()
        # Bytes of a message that was replaced, still to come.
        self._swallow = 0

    @property
    def waits(self) -> bool:
        """Says whether bytes of the client wait."""
        return bool(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        return len(self._waiting)

    @property
    def at_rest(self) -> bool:
        """Says whether nothing waits and no message is half sent."""
        return self.framer.at_boundary and not self._waiting and not self._swallow

    def keep(self, data: bytes) -> None:
        """Keeps bytes until they may be read."""
        self._waiting += data

    def take_waiting(self) -> bytes:
        """Gives away what waits."""
        data = bytes(self._waiting)
        self._waiting = bytearray()
        return data

    def begin(self, data: bytes) -> None:
        """Takes the next chunk, behind what waits."""
        if self._waiting:
            self._waiting += data
            data = self.take_waiting()
        if self._swallow:
            gone = min(self._swallow, len(data))
            self._swallow -= gone
            data = data[gone:]
        Stream.begin(self, data)

    def hold(self, start: int, end: int, running: Running) -> None:
        """Holds a message that is an attempt, and everything behind it, until the log has the attempt."""
        self.release(start)
        self._holding = True
        self._output.made().held.append(Held(self.framer.buffer[start:end], running))
        self._kept_from = end

    def replace(self, message: bytes) -> None:
        """Replaces the message just reported by another one; drops the rest of it when it comes."""
        framer = self.framer
        self.let_on(framer.buffer[self._kept_from : framer.start] + message)
        self._kept_from = framer.cut
        if not framer.complete:
            self._swallow = framer.discard()

    def keep_rest(self) -> None:
        """Keeps the rest of the chunk behind the message just reported, to be read in a later turn."""
        framer = self.framer
        self._waiting += framer.buffer[framer.cut :]
        framer.buffer = framer.buffer[: framer.cut]

    def too_early(self) -> bytes:
        """Keeps what the client sent before it was let in; gives the bytes before that."""
        framer = self.framer
        before, rest = framer.buffer[: framer.cut], framer.buffer[framer.cut :]
        self.framer = Framer(FROM_CLIENT, self._max_message)
        self._waiting += rest
        return before


class BackendStream(Stream):
    """The backend's bytes."""

    def __init__(self, output: Output) -> None:
        super().__init__(Framer(FROM_BACKEND, _LONGEST_LENGTH), output)
        # Whether the rest of a message that is dropped is still to come.
        self._dropping = False
        # Where a message was dropped behind which the backend says more at once.
        self._more_at = 0

    def begin(self, data: bytes) -> None:
        """Takes the next chunk."""
        Stream.begin(self, data)
        self._more_at = 0
        if self._dropping:
            framer = self.framer
            self._output.made()
            self._kept_from = framer.cut
            self._dropping = framer.streaming

    def hold(self) -> None:
        """Holds everything behind the message just dropped until the log has what it said."""
        self._holding = True

    def drop(self) -> None:
        """Keeps the message just reported from the client, and what of it has not come yet."""
        framer = self.framer
        self.release(framer.start)
        self._kept_from = min(framer.end, len(framer.buffer))
        self._dropping = not framer.complete

    def expect(self) -> None:
        """Takes note that the backend is about to say more behind the message just dropped."""
        self._more_at = self._kept_from

    def finish(self) -> bytes | Step:
        step = self._output.step
        if step is not None and self._more_at and self._more_at == len(self.framer.buffer) and not self._holding:
            step.more = True
        return Stream.finish(self)

    def replace(self, message: bytes) -> None:
        """Replaces the message just reported by another one."""
        self.drop()
        self.let_on(message)

    def see_rows(self, wanted: bool) -> None:
        """Has rows reported, which otherwise pass unseen."""
        self.framer.actions = FROM_BACKEND_OWN if wanted else FROM_BACKEND
