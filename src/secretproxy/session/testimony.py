"""Testimony: what a secret function says from inside the backend each time it runs, and the token of a proxied session.

A testimony is a NoticeResponse with SQLSTATE SPX01 whose message is fifteen ASCII tokens, the last
an HMAC-SHA256 over the others:

    SPX1 KEY PID START CLOCK FUNCTION OWNER NAMES ENCODING SESSION_USER ROLE JWT_USER p|d - MAC

START is in microseconds since the Unix epoch, CLOCK in those since 2000-01-01 UTC as sixteen hexadecimal digits
(timestamptz_send); texts are in hexadecimal of their UTF-8 bytes; `-` is NULL. NAMES: hex joined by commas, `~` a NULL
element, `_` an empty name, `=` an empty array.

A call of one name in a proxied session may say it in fewer steps, for the backend's sake: the same tokens without
those that it does not have, the texts in quotes as quote_nullable() puts them, the 32 bytes of the HMAC after them,
and all of it in hexadecimal:

    SPX2 KEY PID START CLOCK FUNCTION OWNER JWT_USER 'NAME' 'SESSION_USER' 'ROLE'MAC

JWT_USER may be empty; ROLE is `none` where none is set, as current_setting('role') has it.

Where the session has no valid token the message is a sentence for people, and the first form stands in the field
CONSTRAINT NAME, which psql and drivers do not show. Such a session may be a proxied one all the same: its client
can have spoiled the token.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import uuid
from collections.abc import Callable, Mapping

from secretproxy.detect.arguments import spelled_uuid

SQLSTATE = b"SPX01"
QUOTED = b"SPX2 ".hex().encode()
DIRECT = b"secretproxy: this call of "
MAC_SIZE = 32
# Before the number that a database signs to prove its key: nothing else that is signed begins so.
PROOF = b"secretproxy key proof "
MARK = b"secretproxy proxy mark "
_MARK = re.compile(r"1\.([0-9]{1,10})\.([0-9a-f]{32})\.([0-9a-f]{64})")
# Bytes of a notice. The backend half makes no testimony longer than MOST (secretproxy.testify() counts the names).
# HEAD are read of one that has a long CONTEXT.
MOST = 4_200_000
HEAD = 32_768
# Three texts as quote_literal_internal() of src/backend/utils/adt/quote.c writes them: in quotes, both kinds of mark
# doubled, an E ahead where there is a backslash.
_TEXTS = re.compile(b" ".join([rb"(E?'[^']*(?:''[^']*)*')"] * 3))


class Testimony:
    """One call as the function itself tells it, its MAC checked."""

    __slots__ = (
        "clock", "encoding", "function", "jwt_user", "names", "owner", "pid", "proxied", "role", "session_user",
            "start",
    )  # fmt: skip

    def __init__(
        self,
        start: tuple[bytes, bytes, bytes],
        function: bytes,
        owner: bytes,
        names: tuple[str | None, ...] | None,
        encoding: str | None,
        users: tuple[str | None, str | None, bytes],
        proxied: bool,
    ) -> None:
        """Takes `start`: PID, START and CLOCK; `users`: session user, role and JWT_USER."""
        self.pid = int(start[0])
        self.start = int(start[1])
        self.clock = int(start[2], 16)
        self.function = function.decode("ascii")
        self.owner = _uuid(owner)
        self.names = names
        self.encoding = encoding
        self.session_user = users[0] or ""
        self.role = users[1]
        self.jwt_user = _uuid(users[2])
        self.proxied = proxied

    def __repr__(self) -> str:
        return f"Testimony({self.function})"


class HmacKey:
    """An HMAC-SHA256 key, its two pads hashed once: a third of the cost of hmac.digest() for a short message."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = hashlib.sha256(key).digest() if len(key) > 64 else key
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block.ljust(64, b"\0")))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block.ljust(64, b"\0")))

    def sign(self, message: bytes) -> bytes:
        """Computes the MAC, 32 bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Keys:
    """The keys of testimony and token by version. The highest signs; every one is accepted.

    `reload` is asked for newer keys where a testimony names a version that is not known.
    """

    __slots__ = ("_keys", "_reload", "version")

    def __init__(
        self, keys: Mapping[int, bytes], reload: Callable[[], Mapping[int, bytes] | None] | None = None
    ) -> None:
        self._reload = reload
        self.replace(keys)

    def replace(self, keys: Mapping[int, bytes]) -> None:
        self._keys = {version: HmacKey(key) for version, key in keys.items()}
        self.version = max(self._keys)

    def _key(self, version: int) -> HmacKey | None:
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
        """Makes the value of `secretproxy.session` for a backend process and its start time."""
        signed = f"SPXT1 {pid} {start}".encode()
        return f"1.{self.version}.{self._keys[self.version].sign(signed).hex()}"

    def proves(self, version: int, nonce: bytes, proof: str) -> bool | None:
        """Says whether secretproxy.key_proof() signed this number with the key of this version; None if no such key is
        known.
        """
        key = self._key(version)
        return None if key is None else hmac.compare_digest(key.sign(PROOF + nonce).hex(), proof)

    def mark(self, nonce: bytes) -> str:
        """Makes the mark by which a proxy with these keys recognises itself."""
        return f"1.{self.version}.{nonce.hex()}.{self._keys[self.version].sign(MARK + nonce).hex()}"

    def knows(self, mark: str) -> bool:
        """Says whether a proxy with one of these keys made this mark."""
        found = _MARK.fullmatch(mark)
        key = self._keys.get(int(found[1])) if found is not None else None
        return (
            found is not None
            and key is not None
            and hmac.compare_digest(key.sign(MARK + bytes.fromhex(found[2])).hex(), found[3])
        )

    def read(self, message: bytes) -> Testimony | None:
        """Reads the testimony in a notice's message; None if its MAC or its form is wrong."""
        try:
            return self._quoted(message) if message.startswith(QUOTED) else self._spelled(message)
        except ValueError:
            return None

    def _spelled(self, message: bytes) -> Testimony | None:
        signed, _, mac = message.rpartition(b" ")
        parts = signed.split(b" ")
        if (
            len(parts) != 14
            or parts[0] != b"SPX1"
            or not self._signed(parts[1], signed, bytes.fromhex(mac.decode("ascii")))
        ):
            return None
        return Testimony(
            (parts[2], parts[3], parts[4]), parts[5], parts[6], _names(parts[7]), _text(parts[8]),
            (_text(parts[9]), _text(parts[10]), parts[11]), parts[12] == b"p",
        )  # fmt: skip

    def _quoted(self, message: bytes) -> Testimony | None:
        told = binascii.unhexlify(message)
        signed, mac = told[:-MAC_SIZE], told[-MAC_SIZE:]
        parts = signed.split(b" ", 8)
        if len(parts) != 9 or not self._signed(parts[1], signed, mac):
            return None
        # Three texts without a mark in them, which is most of all, need no pattern.
        texts = parts[8].split(b"'")
        if len(texts) == 7 and not texts[0] and texts[2] == b" " and texts[4] == b" " and not texts[6]:
            name, user, role = _native(texts[1]), _native(texts[3]), _native(texts[5])
        else:
            found = _TEXTS.fullmatch(parts[8])
            if found is None:
                return None
            name, user, role = _unquoted(found[1]), _unquoted(found[2]), _unquoted(found[3])
        return Testimony(
            (parts[2], parts[3], parts[4]), parts[5], parts[6], (name,), None,
            (user, None if role == "none" else role, parts[7] or b"-"), True,
        )  # fmt: skip

    def _signed(self, version: bytes, signed: bytes, mac: bytes) -> bool:
        key = self._key(int(version)) if version.isdigit() else None
        return key is not None and hmac.compare_digest(key.sign(signed), mac)


def may_be(begun: bytes) -> bool:
    """Says whether a message that begins like this can be a testimony."""
    return any(begun.startswith(head[: len(begun)]) for head in (b"SPX1 ", QUOTED))


def may_be_direct(begun: bytes) -> bool:
    """Says whether a message that begins like this can be the sentence of a session without a token, whose testimony
    comes after the CONTEXT.
    """
    return begun.startswith(DIRECT[: len(begun)])


def line(message: bytes, constraint: bytes) -> bytes:
    """Gives the signed line of a notice, from its MESSAGE or its CONSTRAINT NAME."""
    return constraint if message.startswith(DIRECT) else message


def _uuid(token: bytes) -> uuid.UUID | None:
    return None if token == b"-" else spelled_uuid(token.decode("ascii"))


def _text(token: bytes) -> str | None:
    return None if token == b"-" else bytes.fromhex(token.decode("ascii")).decode("utf-8", "surrogateescape")


def _unquoted(literal: bytes) -> str:
    text = literal[literal.index(b"'") + 1 : -1].replace(b"''", b"'")
    if literal.startswith(b"E"):
        text = text.replace(b"\\\\", b"\\")
    return _native(text)


def _native(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _names(token: bytes) -> tuple[str | None, ...] | None:
    if token == b"-":
        return None
    if token == b"=":
        return ()
    return tuple(None if part == b"~" else "" if part == b"_" else _text(part) for part in token.split(b","))


# What the context lines of PL/pgSQL and of SQL functions name (plpgsql_exec_error_callback() of
# src/pl/plpgsql/src/pl_exec.c, sql_exec_error_callback() of src/backend/executor/functions.c). A PL/pgSQL function's
# is what format_procedure() makes of it, names quoted where they need it; an SQL function's bare name stands in
# quotes as it is, whatever it holds.
_NAME = r'(?:[a-z_][a-z0-9_]*|"(?:[^"]|"")++")'
_SIGNATURE = rf'{_NAME}(?:\.{_NAME})?\((?:[^()"\n]|"(?:[^"]|"")++")*+\)'
_FRAME = re.compile(rf"PL/pgSQL[ -]\w+ (inline_code_block|{_SIGNATURE})(?: [^\"\n]*)?(?:\n|\Z)")
_SQL_FRAME = re.compile(r'SQL function "([^"\n]{1,130})" (?:statement \d+|during \w+)(?:\n|\Z)')
# The function that testifies. What stands before it is our own functions' text, the same for every call.
_API = re.compile(
    r"^PL/pgSQL[ -]\w+ (?:encrypted_secrets\.)?secrets_[a-z]+\([^()\"\n]*\)(?: [^\"\n]*)?(?:\n|\Z)", re.MULTILINE
)
MOST_CALLERS = 20
# Bytes of a CONTEXT that are read: the calls next to the secret function stand first.
MOST_CONTEXT = 16_384
# Stands for the callers that are not known.
UNKNOWN_CALLERS = "..."


def call_path(context: str) -> tuple[str, ...] | None:
    """Reads the functions on the way to the call, the outermost first, out of a notice's CONTEXT.

    It ignores the texts of statements, and everything behind the first of them: they are a client's, with
    newlines where it likes, and nothing says where they end. "..." stands for what is not known for that.
    """
    api = _API.search(context)
    if api is None:
        return (UNKNOWN_CALLERS,) if context else None
    callers: list[str] = []
    pos = api.end()
    while pos < len(context) and len(callers) < MOST_CALLERS:
        frame = _FRAME.match(context, pos)
        if frame is None:
            break
        callers.append(frame[1])
        pos = frame.end()
    if pos < len(context):
        # A name that anybody may give a function can hold such lines too.
        frame = _SQL_FRAME.match(context, pos)
        if frame is not None and len(callers) < MOST_CALLERS:
            callers.append(frame[1])
            pos = frame.end()
    if pos < len(context):
        callers.append(UNKNOWN_CALLERS)
    return tuple(reversed(callers)) or None
