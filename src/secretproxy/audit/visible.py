"""The visible form of texts in a log whose encoding is SQL_ASCII, in which a text may be any bytes.

A byte that is not UTF-8 is `\\xff`, a backslash is `\\\\`. A connection to such a log gives each byte as a character of
LATIN1. Pure.
"""

from __future__ import annotations

import re
from typing import Any

_ESCAPED = re.compile(rb"\\(?:x([0-9a-f]{2})|\\)")


def shown(text: str) -> str:
    """Gives the visible form of bytes, each a character of LATIN1."""
    return shown_bytes(text.encode("latin-1"))


def shown_bytes(data: bytes) -> str:
    """Gives the visible form of bytes."""
    return data.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def bytes_of(text: str) -> bytes:
    """Gives the bytes of a visible form."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"\\", text.encode())


def given(text: str) -> str:
    """Gives the bytes of a visible form, each a character of LATIN1."""
    return bytes_of(text).decode("latin-1")


def logged(value: Any) -> Any:
    """Gives the text of a visible form as a proxy has it: bytes that are not UTF-8 as surrogates. Lists too."""
    if isinstance(value, str):
        return bytes_of(value).decode("utf-8", "surrogateescape")
    return [logged(item) for item in value] if isinstance(value, list) else value
