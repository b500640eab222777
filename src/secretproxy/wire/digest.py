"""Makes SHA-256 digests and HMACs, of which each audited call takes three.

In a compiled installation _digest.c asks Python's own OpenSSL for them; both ways give the same. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

_BLOCK: Final = 64
# A copy of one that is there: to look the algorithm up costs more than to hash a row.
_EMPTY: Final = hashlib.sha256()


def sha256(first: bytes, second: bytes) -> bytes:
    """Hashes two parts, one behind the other."""
    hasher = _EMPTY.copy()
    hasher.update(first + second)
    return hasher.digest()


def hmac_sha256(inner: bytes, outer: bytes, message: bytes) -> bytes:
    """Makes an HMAC, 32 bytes, of what pads() gives for a key, and a message."""
    return sha256(outer, sha256(inner, message))


def is_hmac_sha256(inner: bytes, outer: bytes, message: bytes, mac: bytes) -> bool:
    """Tells whether this is the HMAC that hmac_sha256() makes. How long that takes does not tell how much of it is."""
    return hmac.compare_digest(hmac_sha256(inner, outer, message), mac)


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Makes both pads of a key (RFC 2104)."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


_Makers = tuple[
    Callable[[bytes, bytes], bytes],
    Callable[[bytes, bytes, bytes], bytes],
    Callable[[bytes, bytes, bytes, bytes], bool],
]


def _makers() -> _Makers:
    """Gives the three functions, those in C where they are."""
    in_python = sha256, hmac_sha256, is_hmac_sha256
    try:
        from secretproxy.wire import _digest

        same = _digest.sha256(b"a", b"b") == sha256(b"a", b"b")
    except (ImportError, RuntimeError):
        return in_python
    return (_digest.sha256, _digest.hmac_sha256, _digest.is_hmac_sha256) if same else in_python


MAKERS: Final = _makers()
