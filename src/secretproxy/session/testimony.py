"""Testimony: what a secret function says from inside the backend each time it runs, and the token of a proxied session.

A testimony is a NoticeResponse with SQLSTATE SPX01 whose message is fifteen ASCII tokens, the last
an HMAC-SHA256 over the others:

    SPX1 KEY PID START CLOCK FUNCTION OWNER NAMES ENCODING SESSION_USER ROLE JWT_USER p|d - MAC

START is in microseconds since the Unix epoch, CLOCK in those since 2000-01-01 UTC as sixteen hexadecimal digits
(timestamptz_send); texts are in hexadecimal of their UTF-8 bytes; `-` is NULL. NAMES: hex joined by commas, `~` a NULL
element, `_` an empty name, `=` an empty array.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Callable, Mapping

SQLSTATE = b"SPX01"


class Testimony:
    """One call as the function itself tells it, its MAC checked."""

    __slots__ = (
        "clock", "encoding", "function", "jwt_user", "names", "owner", "pid", "proxied", "role", "session_user", "start",
    )  # fmt: skip

    def __init__(self, parts: list[bytes]) -> None:
        self.pid = int(parts[2])
        self.start = int(parts[3])
        self.clock = int(parts[4], 16)
        self.function = parts[5].decode("ascii")
        self.owner = _uuid(parts[6])
        self.names = _names(parts[7])
        self.encoding = _text(parts[8])
        self.session_user = _text(parts[9]) or ""
        self.role = _text(parts[10])
        self.jwt_user = _uuid(parts[11])
        self.proxied = parts[12] == b"p"

    def __repr__(self) -> str:
        return f"Testimony({self.function})"


class Key:
    """An HMAC-SHA256 key, its two pads hashed once: a third of the cost of hmac.digest() for a short message."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = hashlib.sha256(key).digest() if len(key) > 64 else key
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block.ljust(64, b"\0")))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block.ljust(64, b"\0")))

    def sign(self, message: bytes) -> str:
        """The MAC in hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()


class Keys:
    """The keys of testimony and token by version. The highest signs; every one is accepted.

    `reload` is asked for newer keys where a testimony names a version that is not known.
    """

    __slots__ = ("_keys", "_reload", "version")

    def __init__(self, keys: Mapping[int, bytes], reload: Callable[[], Mapping[int, bytes] | None] | None = None) -> None:
        self._reload = reload
        self.replace(keys)

    def replace(self, keys: Mapping[int, bytes]) -> None:
        self._keys = {version: Key(key) for version, key in keys.items()}
        self.version = max(self._keys)

    def _key(self, version: int) -> Key | None:
        key = self._keys.get(version)
        if key is None and self._reload is not None:
            newer = self._reload()
            if newer:
                self.replace(newer)
                key = self._keys.get(version)
        return key

    def __repr__(self) -> str:
        return f"Keys(versions={sorted(self._keys)})"

    def token(self, pid: int, start: int) -> str:
        """The value of `secretproxy.session` for a backend process and its start."""
        signed = f"SPXT1 {pid} {start}".encode()
        return f"1.{self.version}.{self._keys[self.version].sign(signed)}"

    def read(self, message: bytes) -> Testimony | None:
        """The testimony in a notice's message, or None where its MAC or its form is wrong."""
        signed, _, mac = message.rpartition(b" ")
        parts = signed.split(b" ")
        if len(parts) != 14 or parts[0] != b"SPX1" or not parts[1].isdigit():
            return None
        key = self._key(int(parts[1]))
        if key is None:
            return None
        if not hmac.compare_digest(key.sign(signed).encode(), mac):
            return None
        try:
            return Testimony(parts)
        except ValueError:
            return None


def _uuid(token: bytes) -> uuid.UUID | None:
    return None if token == b"-" else uuid.UUID(token.decode("ascii"))


def _text(token: bytes) -> str | None:
    return None if token == b"-" else bytes.fromhex(token.decode("ascii")).decode("utf-8", "replace")


def _names(token: bytes) -> tuple[str | None, ...] | None:
    if token == b"-":
        return None
    if token == b"=":
        return ()
    return tuple(None if part == b"~" else "" if part == b"_" else _text(part) for part in token.split(b","))


# What the context lines of PL/pgSQL and of SQL functions name (plpgsql_exec_error_callback() of src/pl/plpgsql/src/pl_exec.c,
# sql_exec_error_callback() of src/backend/executor/functions.c). Lines that quote a statement's text match neither.
_CALLER = re.compile(
    r'^PL/pgSQL[ -]\w+ (inline_code_block|[\w$".]{1,200}\([^()"\n]{0,500}\)) |^SQL function "([^"\n]{1,130})" (?:statement \d+|during \w+)$',
    re.MULTILINE,
)
_OWN = ("encrypted_secrets.secrets_", "secretproxy.testify(", "secretproxy.own_start(")
MOST_CALLERS = 20
# Bytes of a CONTEXT that are read: the calls next to the secret function stand first.
MOST_CONTEXT = 16_384


def call_path(context: str) -> tuple[str, ...] | None:
    """The functions on the way to the call, the outermost first, out of a notice's CONTEXT; its texts of statements are left alone."""
    names = [found[1] or found[2] for found in _CALLER.finditer(context)]
    callers = [name for name in names if not name.startswith(_OWN)]
    return tuple(reversed(callers[:MOST_CALLERS])) or None
