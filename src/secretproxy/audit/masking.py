"""Masks a name that a client chose where it may be a value, and writes one that the log's database cannot hold as
escapes.

The only place that decides what of a client's names reaches the log. Pure, compiled by mypyc where that is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

from secretproxy.session.encodings import codec

# Encodings that PostgreSQL and Python map alike, character by character.
_ONE_BYTE: Final = frozenset(
    {"LATIN1", "LATIN2", "LATIN3", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10"}
)
# What is hashed for a mask begins with this: secretproxy.masked() of the backend half does the same with the same key.
_MASK: Final = b"secretproxy name mask "
# What is written in a name's place begins with one of these where it is not the name as it is.
RESERVED: Final = ("masked:", "escaped:", "name:")


def name_bytes(name: str) -> bytes:
    """Gives the bytes of a name, including those that are not UTF-8."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


class NameMask:
    """Masks a name from a client that may be a value: too long, or with the shape of a known kind of secret.

    The mask is a keyed digest, so that equal texts can be seen to be equal by whoever holds the key, and not guessed by
    others.
    """

    def __init__(self, max_name: int, patterns: Sequence[str], key: bytes) -> None:
        self._max_name = max_name
        self._pattern = re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None
        self._key = key
        # Empty: every character can be stored.
        self.codec = ""

    def stored_in(self, encoding: str) -> None:
        """Sets the encoding of the log's database; characters that it does not have are written as escapes."""
        self.codec = "" if encoding in ("UTF8", "SQL_ASCII") else codec(encoding) if encoding in _ONE_BYTE else "ascii"

    def __repr__(self) -> str:
        return f"NameMask(max_name={self._max_name})"

    def __call__(self, name: str | None) -> str | None:
        if name is None:
            return None
        if "\0" in name:
            # NUL cannot be stored, and no name has one.
            name = name.replace("\0", "?")
        clean = name_bytes(name)
        if len(clean) > self._max_name or (self._pattern and self._pattern.search(name)):
            return self.masked(clean)
        try:
            name.encode(self.codec or "utf-8")
        except UnicodeEncodeError:
            return "escaped:" + "".join([self._escaped(character) for character in name])
        # A name that looks like a mask gets a prefix of its own.
        return f"name:{name}" if name.startswith(RESERVED) else name

    def _escaped(self, character: str) -> str:
        """Escapes a name: \\xNN for a byte that is not UTF-8, \\uNNNN or \\UNNNNNNNN for a character that the log's
        database does not have, and a doubled backslash.
        """
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        if character == "\\":
            return "\\\\"
        try:
            character.encode(self.codec or "utf-8")
        except UnicodeEncodeError:
            return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        return character

    def masked(self, clean: bytes) -> str:
        """Masks a name that must not be shown, whatever it looks like."""
        return f"masked:{hmac.new(self._key, _MASK + clean, hashlib.sha256).hexdigest()[:32]}"
