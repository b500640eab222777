"""Makes SHA-256 digests and HMACs, of which each audited call takes three.

In a compiled installation _digest.c asks Python's own OpenSSL for them; both ways give the same. Pure.
"""

from __future__ import annotations

import hashlib
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


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Makes both pads of a key (RFC 2104)."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


def _makers() -> tuple[Callable[[bytes, bytes], bytes], Callable[[bytes, bytes, bytes], bytes]]:
    """Gives both functions, those in C where they are."""
    try:
        from secretproxy.wire import _digest

        # Twice: each digest begins with what the one before has left.
        same = [_digest.sha256(b"a", b"b") == sha256(b"a", b"b") for _ in range(2)]
    except (ImportError, RuntimeError):
        return sha256, hmac_sha256
    return (_digest.sha256, _digest.hmac_sha256) if all(same) else (sha256, hmac_sha256)


MAKERS: Final = _makers()
