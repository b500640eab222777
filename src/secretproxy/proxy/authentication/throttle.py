"""Counts failed logins, by address and by user, in memory of a fixed size that all workers share.

Each key has two places in a table of times, found by a keyed hash, and the lesser of both counts: a place says until
when the failures so far are paid for (the generic cell rate algorithm). An address that is over its limit is refused
whoever it says it is. A user that is over his is refused to addresses he has not logged in from: whoever guesses at a
name from many places does not lock its owner out."""

from __future__ import annotations

import hashlib
import mmap
import secrets
import struct
import time

_SLOTS = 1 << 15
_TIME = struct.Struct("d")
_GOOD_SECONDS = 86_400.0


class LoginThrottle:
    """Made before the workers are forked. Times are of the machine's one monotonic clock."""

    def __init__(self, per_address: int, per_user: int) -> None:
        """Takes the limits per minute; 0: no limit."""
        self._per_address = per_address
        self._per_user = per_user
        self._key = secrets.token_bytes(16)
        self._table = mmap.mmap(-1, _SLOTS * _TIME.size)

    def _places(self, *parts: bytes) -> tuple[int, int]:
        digest = hashlib.blake2b(b"\0".join(parts), key=self._key, digest_size=8).digest()
        one, other = struct.unpack("!II", digest)
        return one % _SLOTS * _TIME.size, other % _SLOTS * _TIME.size

    def _time(self, places: tuple[int, int]) -> float:
        return min(float(_TIME.unpack_from(self._table, place)[0]) for place in places)

    def _set(self, places: tuple[int, int], until: float) -> None:
        for place in places:
            if until > _TIME.unpack_from(self._table, place)[0]:
                _TIME.pack_into(self._table, place, until)

    def wait(self, address: bytes, user: bytes) -> float:
        """Gives the seconds until this address may try to log in as this user, 0 if it may now."""
        return self.wait_by(address, user)[0]

    def wait_by(self, address: bytes, user: bytes) -> tuple[float, str]:
        """Gives the same, and the responsible setting."""
        now = time.monotonic()
        found, setting = 0.0, "auth.failures_per_address"
        if self._per_address:
            found = self._over(b"address", address, self._per_address, now)
        if self._per_user and self._time(self._places(b"good", address, user)) < now:
            by_user = self._over(b"user", user, self._per_user, now)
            if by_user > found:
                found, setting = by_user, "auth.failures_per_user"
        return found, setting

    def _over(self, kind: bytes, key: bytes, per_minute: int, now: float) -> float:
        # One more failure must fit into the minute that may be owed.
        return max(0.0, self._time(self._places(kind, key)) + 60.0 / per_minute - now - 60.0)

    def failed(self, address: bytes, user: bytes) -> None:
        now = time.monotonic()
        for kind, key, per_minute in ((b"address", address, self._per_address), (b"user", user, self._per_user)):
            if per_minute:
                places = self._places(kind, key)
                self._set(places, max(self._time(places), now) + 60.0 / per_minute)

    def succeeded(self, address: bytes, user: bytes) -> None:
        self._set(self._places(b"good", address, user), time.monotonic() + _GOOD_SECONDS)
