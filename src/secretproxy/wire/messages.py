"""Reads and builds single messages: what a client and a backend say, and the few that the proxy says itself.

The formats are those of https://www.postgresql.org/docs/current/protocol-message-formats.html. Readers raise
ProtocolViolationError for content that does not fit its message and never quote it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from secretproxy.wire.errors import MalformedError, ProtocolViolationError, UnreadableError
from secretproxy.wire.redacted import Redacted
from secretproxy.wire.types import BackendMessage, ErrorField, FrontendMessage, SqlState

PROTOCOL_3_0: Final = 196608
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
# Longest startup packet that PostgreSQL itself takes: MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h.
MAX_STARTUP_PACKET: Final = 10004  # with the four bytes of the length itself

_INT32: Final = struct.Struct("!i")
_HEADER: Final = struct.Struct("!Bi")
# Every count of the protocol is read unsigned, as pq_getmsgint() reads it.
_UINT16: Final = struct.Struct("!H")


_Bound = tuple[bytes, bytes, tuple[int, ...], list[bytes | None]]


def no_cstring(message: bytes, pos: int, end: int) -> tuple[bytes, int] | None:
    """Gives None: nothing is read in C."""
    return None


def no_bind(message: bytes, pos: int, end: int) -> _Bound | None:
    """Gives None: nothing is read in C."""
    return None


def _readers() -> tuple[
    Callable[[bytes, int, int], tuple[bytes, int] | None], Callable[[bytes, int, int], _Bound | None]
]:
    """Gives what reads strings and Binds that are in order: in C where the package was compiled."""
    try:
        from secretproxy.wire import _messages
    except ImportError:
        return no_cstring, no_bind
    return _messages.cstring, _messages.bind


READERS: Final = _readers()
_cstring_in_c: Final[Callable[[bytes, int, int], tuple[bytes, int] | None]] = READERS[0]
_bind_in_c: Final[Callable[[bytes, int, int], _Bound | None]] = READERS[1]


# --- startup -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Startup:
    """A startup packet: a protocol version (or one of the request codes) and the parameters."""

    code: int
    parameters: dict[str, str]

    def __repr__(self) -> str:
        return f"Startup({self.code}, parameters={len(self.parameters)})"


def startup_length(head: bytes) -> int:
    """Reads the length of a startup packet from its first four bytes. Raises MalformedError."""
    length: int = _INT32.unpack_from(head)[0]
    if not 8 <= length <= MAX_STARTUP_PACKET:
        raise MalformedError("invalid length of startup packet")
    return length


def unsupported(code: int) -> ProtocolViolationError:
    """Gives the error message for a protocol version that is not supported."""
    version = f"{code >> 16}.{code & 0xFFFF}"
    return ProtocolViolationError(
        f"unsupported frontend protocol {version}: server supports 3.0 to 3.2", SqlState.FEATURE_NOT_SUPPORTED
    )


def read_startup(packet: bytes) -> Startup:
    """Reads a whole startup packet (length included). Raises ProtocolViolationError."""
    code: int = _INT32.unpack_from(packet, 4)[0]
    if code in (SSL_REQUEST, GSSENC_REQUEST, CANCEL_REQUEST):
        if code == CANCEL_REQUEST and len(packet) < 16:
            raise MalformedError("invalid length of cancel request")
        return Startup(code, {})
    if code >> 16 != 3:
        raise unsupported(code)
    if packet[-1:] != b"\0":
        raise ProtocolViolationError("invalid startup packet layout: expected terminator as last byte")
    parts = packet[8:-1].split(b"\0")
    if parts and not parts[-1]:
        parts.pop()
    if len(parts) % 2:
        raise ProtocolViolationError("invalid startup packet layout: expected terminator as last byte")
    # Lossless: a name that is not UTF-8 is a name too where the server takes it.
    texts = [part.decode("utf-8", "surrogateescape") for part in parts]
    return Startup(code, dict(zip(texts[::2], texts[1::2], strict=True)))


# --- backend messages --------------------------------------------------------------------------------------------


def fields(message: bytes, start: int, end: int) -> dict[int, bytes]:
    """Reads the fields of an ErrorResponse or NoticeResponse by their type byte; a cut-off last one is left out."""
    found: dict[int, bytes] = {}
    parts = message[start + 5 : end].split(b"\0")
    for place in range(len(parts) - 1):
        part = parts[place]
        if not part:
            break
        found[part[0]] = part[1:]
    return found


def begun(message: bytes, start: int, end: int) -> tuple[int, bytes]:
    """Reads the type byte and the beginning of the field that is cut off where an ErrorResponse or NoticeResponse
    ends too soon."""
    pos = start + 5
    while pos < end and message[pos] != 0:
        stop = message.find(b"\0", pos + 1, end)
        if stop < 0:
            return message[pos], message[pos + 1 : end]
        pos = stop + 1
    return 0, b""


def field(message: bytes, start: int, end: int, kind: int) -> bytes:
    """Gives one field of an ErrorResponse or NoticeResponse, empty if it is missing."""
    return fields(message, start, end).get(kind, b"")


def read_error(message: bytes, start: int, end: int) -> tuple[str, bool]:
    """Reads an ErrorResponse, be it whole or not: its SQLSTATE, and whether it is the end of the session."""
    found = fields(message, start, min(end, len(message)))
    severity = found.get(ErrorField.SEVERITY_NONLOCALIZED, found.get(ErrorField.SEVERITY, b""))
    return found.get(ErrorField.SQLSTATE, b"").decode("ascii", "replace"), severity in (b"FATAL", b"PANIC")


AUTHENTICATION_OK, AUTHENTICATION_SASL, AUTHENTICATION_SASL_CONTINUE, AUTHENTICATION_SASL_FINAL = 0, 10, 11, 12


def authentication(code: int, data: bytes = b"") -> bytes:
    """Makes an Authentication message of this kind."""
    return _message(BackendMessage.AUTHENTICATION, _INT32.pack(code) + data)


def authentication_sasl(mechanisms: list[bytes]) -> bytes:
    """Makes an AuthenticationSASL that offers these mechanisms."""
    return authentication(AUTHENTICATION_SASL, b"".join(name + b"\0" for name in mechanisms) + b"\0")


def read_authentication(body: bytes) -> tuple[int, bytes]:
    """Reads the kind of an Authentication message's body and what follows it. Raises ProtocolViolationError."""
    if len(body) < 4:
        raise ProtocolViolationError("an Authentication message is too short")
    code: int = _INT32.unpack_from(body)[0]
    return code, body[4:]


def error_response(
    severity: str, sqlstate: str, message: str, *, detail: str | None = None, hint: str | None = None
) -> bytes:
    """Makes an ErrorResponse. This is the one place that does."""
    parts = [
        (ErrorField.SEVERITY, severity),
        (ErrorField.SEVERITY_NONLOCALIZED, severity),
        (ErrorField.SQLSTATE, sqlstate),
        (ErrorField.MESSAGE, message),
    ]
    if detail:
        parts.append((ErrorField.DETAIL, detail))
    if hint:
        parts.append((ErrorField.HINT, hint))
    body = b"".join(bytes((kind,)) + text.encode() + b"\0" for kind, text in parts) + b"\0"
    return _message(BackendMessage.ERROR_RESPONSE, body)


def parameter_types(message: bytes, start: int, end: int) -> tuple[int, ...]:
    """Reads the type OIDs of a ParameterDescription."""
    count = int.from_bytes(message[start + 5 : start + 7], "big")
    if start + 7 + 4 * count > end:
        raise ProtocolViolationError("ParameterDescription is too short")
    return struct.unpack_from(f"!{count}I", message, start + 7)


# --- client messages ---------------------------------------------------------------------------------------------


def cstring(message: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """Reads a null-terminated string and the position behind it. Raises UnreadableError if it is not terminated."""
    found = _cstring_in_c(message, pos, end)
    if found is not None:
        return found
    stop = message.find(b"\0", pos, end)
    if stop < 0:
        raise UnreadableError("a string in the message has no terminator")
    return message[pos:stop], stop + 1


def sasl_initial_response(mechanism: bytes, data: bytes) -> bytes:
    """Makes a SASLInitialResponse."""
    return _message(FrontendMessage.PASSWORD, mechanism + b"\0" + _INT32.pack(len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    """Makes a SASLResponse."""
    return _message(FrontendMessage.PASSWORD, data)


def read_sasl_initial_response(body: bytes) -> tuple[bytes, bytes | None]:
    """Reads the mechanism and the data (None: none) of a SASLInitialResponse's body. Raises ProtocolViolationError."""
    mechanism, pos = cstring(body, 0, len(body))
    if len(body) < pos + 4:
        raise ProtocolViolationError("insufficient data left in message")
    size: int = _INT32.unpack_from(body, pos)[0]
    data = body[pos + 4 :]
    if size == -1 and not data:
        return mechanism, None
    if size != len(data):
        raise ProtocolViolationError("invalid message format")
    return mechanism, data


class Bind:
    """A Bind message. Values are Redacted (NULL: Redacted(None)); formats: 0 text, 1 binary, one for each value."""

    __slots__ = ("formats", "portal", "statement", "values")

    def __init__(self, portal: bytes, statement: bytes, formats: tuple[int, ...], values: tuple[Redacted, ...]) -> None:
        self.portal = portal
        self.statement = statement
        self.formats = formats
        self.values = values

    def __repr__(self) -> str:
        return f"Bind(values={len(self.values)})"


_SHORT_BIND: Final = "Bind is too short"
# The length of a NULL, and that of the longest value, as unsigned numbers.
_NULL: Final = 0xFFFFFFFF
_LONGEST: Final = 0x7FFFFFFF


def _uint16(message: bytes, pos: int, end: int) -> int:
    if pos + 2 > end:
        raise UnreadableError(_SHORT_BIND)
    return message[pos] << 8 | message[pos + 1]


def read_bind(message: bytes, start: int, end: int) -> Bind:
    """Reads a complete Bind. Raises UnreadableError."""
    found = _bind_in_c(message, start + 5, end)
    if found is not None:
        return Bind(found[0], found[1], found[2], tuple([Redacted(value) for value in found[3]]))
    portal, pos = cstring(message, start + 5, end)
    statement, pos = cstring(message, pos, end)
    format_count = _uint16(message, pos, end)
    pos += 2
    formats = tuple([_uint16(message, pos + 2 * place, end) for place in range(format_count)])
    pos += 2 * format_count
    value_count = _uint16(message, pos, end)
    pos += 2
    values = []
    for _ in range(value_count):
        if pos + 4 > end:
            raise UnreadableError(_SHORT_BIND)
        size = message[pos] << 24 | message[pos + 1] << 16 | message[pos + 2] << 8 | message[pos + 3]
        pos += 4
        if size == _NULL:
            values.append(Redacted(None))
            continue
        if size > _LONGEST:
            raise UnreadableError("a value in Bind has no such length")
        if pos + size > end:
            raise UnreadableError("a value in Bind runs past the message")
        values.append(Redacted(message[pos : pos + size]))
        pos += size
    if format_count == 0:
        formats = (0,) * value_count
    elif format_count == 1:
        formats *= value_count
    elif format_count != value_count:
        raise UnreadableError("Bind has another number of formats than of values")
    return Bind(portal, statement, formats, tuple(values))


def read_parse_types(message: bytes, pos: int, end: int) -> tuple[int, ...]:
    """Reads the parameter type OIDs at the end of a Parse."""
    try:
        count = _UINT16.unpack_from(message, pos)[0]
        types: tuple[int, ...] = struct.unpack_from(f"!{count}I", message, pos + 2)
    except struct.error:
        raise UnreadableError("Parse is too short") from None
    if pos + 2 + 4 * count > end:
        raise UnreadableError("Parse is too short")
    return types


def _message(kind: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body) + 4) + body


def query(text: str) -> bytes:
    """Makes a Query."""
    return _message(FrontendMessage.QUERY, text.encode() + b"\0")


def execute(portal: str) -> bytes:
    """Makes an Execute without a row limit."""
    return _message(FrontendMessage.EXECUTE, portal.encode() + b"\0" + _INT32.pack(0))


def function_call(oid: int, arguments: list[str]) -> bytes:
    """Makes a FunctionCall with arguments and result in text format."""
    body = struct.pack("!IHH", oid, 0, len(arguments))
    for argument in arguments:
        raw = argument.encode()
        body += _INT32.pack(len(raw)) + raw
    return _message(FrontendMessage.FUNCTION_CALL, body + _UINT16.pack(0))


def cancel_request(key: bytes) -> bytes:
    """Makes a CancelRequest with the process id and the secret of a BackendKeyData."""
    return struct.pack("!II", len(key) + 8, CANCEL_REQUEST) + key


def aside(text: str, name: str) -> bytes:
    """Makes the messages of a parameterless statement, from Parse to Sync, with a name of its own that is closed again.

    The unnamed statement and portal stay as they are.
    """
    named = name.encode() + b"\0"
    return (
        _message(FrontendMessage.PARSE, named + text.encode() + b"\0\0\0")
        + _message(FrontendMessage.BIND, named + named + b"\0\0\0\0\0\0")
        + execute(name)
        + _message(FrontendMessage.CLOSE, b"P" + named)
        + _message(FrontendMessage.CLOSE, b"S" + named)
        + _message(FrontendMessage.SYNC, b"")
    )


TERMINATE: Final = _message(FrontendMessage.TERMINATE, b"")
FLUSH: Final = _message(FrontendMessage.FLUSH, b"")


def data_row(message: bytes, start: int, end: int) -> list[bytes | None]:
    """Reads the columns of a DataRow. Raises ProtocolViolationError."""
    count = int.from_bytes(message[start + 5 : start + 7], "big")
    pos = start + 7
    row: list[bytes | None] = []
    for _ in range(count):
        size = int.from_bytes(message[pos : pos + 4], "big", signed=True)
        pos += 4
        if pos + max(size, 0) > end:
            raise ProtocolViolationError("DataRow is too short")
        row.append(None if size < 0 else message[pos : pos + size])
        pos += max(size, 0)
    return row
