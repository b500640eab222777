"""Bytes that may hold a secret: they print as `<redacted>` wherever they are shown.

Everything read out of a client's message that could be a value travels as Redacted until it is either known to be a
name or an owner, or dropped. Must never offer a way to become text by accident.
"""

from __future__ import annotations

from typing import final


@final
class Redacted:
    """A holder of bytes (None: SQL NULL). `reveal` is the only way to them and is called where a decision needs
    them."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | None) -> None:
        self._value = value

    def reveal(self) -> bytes | None:
        return self._value

    def __repr__(self) -> str:
        return "<redacted>"

    def __str__(self) -> str:
        return "<redacted>"

    def __format__(self, spec: str) -> str:
        return "<redacted>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a redacted value is not pickled")
