"""Cuts a testimony of the second form into its parts, for testimony.py, which says what they mean and checks the MAC.

Where the package was compiled, _quoted.c does it for what is commonest: no mark or backslash in a text, and no more
than a kilobyte. Pure.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Final

from secretproxy.wire.types import ErrorField

MAC_SIZE: Final = 32
SQLSTATE: Final = b"SPX01"
QUOTED: Final = b"SPX2 ".hex().encode()
# The field of the SQLSTATE, behind another one, and the beginning of a message of this form, which PostgreSQL sends
# next.
BEGUN: Final = b"\0" + bytes((ErrorField.SQLSTATE,)) + SQLSTATE + b"\0" + bytes((ErrorField.MESSAGE,)) + QUOTED
BEFORE_MESSAGE: Final = len(BEGUN) - len(QUOTED)
# Signed, MAC, "KEY PID START", CLOCK, "FUNCTION OWNER JWT_USER", name, session user, role.
Cut = tuple[bytes, bytes, bytes, int, bytes, str, str, str]
# Signed, MAC, CLOCK.
Same = tuple[bytes, bytes, int]
# Three texts as quote_literal_internal() of src/backend/utils/adt/quote.c writes them: in quotes, both kinds of mark
# doubled, an E ahead where there is a backslash.
_TEXTS: Final = re.compile(b" ".join([rb"(E?'[^']*(?:''[^']*)*')"] * 3))


def cut(message: bytes) -> Cut | None:
    """Cuts the message of a notice; None if it has another form. Raises ValueError if it is no hexadecimal, or CLOCK no
    number."""
    raw = binascii.unhexlify(message)
    signed, mac = raw[:-MAC_SIZE], raw[-MAC_SIZE:]
    parts = signed.split(b" ", 8)
    if len(parts) != 9:
        return None
    found = _TEXTS.fullmatch(parts[8])
    if found is None:
        return None
    return (
        signed, mac, b" ".join(parts[1:4]), int(parts[4], 16),
        b" ".join(parts[5:8]), _unquoted(found[1]), _unquoted(found[2]), _unquoted(found[3]),
    )  # fmt: skip


def _unquoted(literal: bytes) -> str:
    text = literal[literal.index(b"'") + 1 : -1].replace(b"''", b"'")
    if literal.startswith(b"E"):
        text = text.replace(b"\\\\", b"\\")
    return text.decode("utf-8", "surrogateescape")


def commonest(message: bytes) -> Cut | None:
    """Gives None: nothing is cut in C."""
    return None


def heard(notice: bytes, pos: int, end: int) -> Cut | None:
    """Cuts the message of a notice whose fields stand from `pos` to `end`; None where it is none of the commonest
    form."""
    at = notice.find(BEGUN, pos, end)
    stop = notice.find(b"\0", at + BEFORE_MESSAGE, end) if at >= 0 else -1
    return None if stop < 0 else COMMONEST(notice[at + BEFORE_MESSAGE : stop])


def again(
    notice: bytes,
    pos: int,
    end: int,
    begun: bytes,
    function: bytes,
    owner: bytes,
    jwt_user: bytes,
    name: str,
    texts: bytes,
) -> Same | None:
    """Reads the message of a notice whose fields stand from `pos` to `end` if it is word for word as expected, but for
    CLOCK: "KEY PID START", FUNCTION, OWNER, JWT_USER, the name, and the session user and the role in their marks. None
    where it is not, or where the name has a mark or a backslash."""
    parts = heard(notice, pos, end)
    if parts is None or "'" in name or "\\" in name or parts[5] != name:
        return None
    called, said = b" ".join((function, owner, jwt_user)), f"'{parts[6]}' '{parts[7]}'"
    if parts[2] != begun or parts[4] != called or said.encode("utf-8", "surrogateescape") != texts:
        return None
    return parts[0], parts[1], parts[3]


_Again = Callable[[bytes, int, int, bytes, bytes, bytes, bytes, str, bytes], Same | None]


def _in_c() -> tuple[Callable[[bytes], Cut | None], Callable[[bytes, int, int], Cut | None], _Again]:
    try:
        from secretproxy.session import _quoted
    except ImportError:
        return commonest, heard, again
    return _quoted.cut, _quoted.heard, _quoted.again


CUTTERS: Final = _in_c()
AGAIN: Final[_Again] = CUTTERS[2]
COMMONEST: Final[Callable[[bytes], Cut | None]] = CUTTERS[0]
