"""Stores the sessions of signed-in users on the server, found by a random token that only the cookie has.

A session ends after `idle` seconds without a request and after `lifetime` seconds in any case, and with it its
connections and the password that these are opened with. No I/O but what `ended` does."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from secretproxy.console.integrity import Check
from secretproxy.console.reading import LogReader

# More than this many people at once are more likely an attack.
MOST_SESSIONS = 200
# Parts of pages that one person has made at once; more wait.
MOST_COUNTING = 2


@dataclass(slots=True, eq=False)
class SignedIn:
    """One person in one browser. `csrf` is in every form of theirs; `tails` counts live pages; `check` is the latest
    verification.

    `id` and `pages`, the number of pages so far, name this session and its pages in the log. `counting` is held by
    whatever part of a page is made.
    """

    user: str
    reader: LogReader
    csrf: str
    began: float
    seen: float
    over: bool = False
    tails: int = 0
    check: Check | None = None
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    pages: int = 0
    counting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_COUNTING))

    def __repr__(self) -> str:
        return "SignedIn(<redacted>)"


class Sessions:
    """The store. A token is kept as its SHA-256 digest, so that the store itself lets nobody in."""

    def __init__(
        self, idle: float, lifetime: float, clock: Callable[[], float], ended: Callable[[SignedIn], None]
    ) -> None:
        """Takes `idle` and `lifetime` in seconds; `clock` gives seconds and never goes back; `ended` is called with
        each session that ends.
        """
        self._idle = idle
        self._lifetime = lifetime
        self._clock = clock
        self._ended = ended
        self._known: dict[bytes, SignedIn] = {}

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, user: str, reader: LogReader) -> str:
        """Makes a session for who has proven to be `user`; gives its token."""
        self.expire()
        while len(self._known) >= MOST_SESSIONS:
            self._drop(min(self._known, key=lambda digest: self._known[digest].seen))
        token, now = secrets.token_urlsafe(32), self._clock()
        self._known[_digest(token)] = SignedIn(user, reader, secrets.token_urlsafe(32), now, now)
        return token

    def find(self, token: str | None, *, keep_alive: bool = True) -> SignedIn | None:
        """Finds the session of that token, None if there is none or it has ended.

        `keep_alive`: the user made this request.
        """
        found = self._known.get(_digest(token)) if token else None
        if found is None or self.over(found):
            return None
        if keep_alive:
            found.seen = self._clock()
        return found

    def over(self, session: SignedIn) -> bool:
        """Says whether a session has ended; ends it if its time has come."""
        now = self._clock()
        if not session.over and (now - session.seen > self._idle or now - session.began > self._lifetime):
            self.end(session)
        return session.over

    def end(self, session: SignedIn) -> None:
        """Forgets a session."""
        for digest in [digest for digest, one in self._known.items() if one is session]:
            self._drop(digest)

    def expire(self) -> None:
        """Forgets the sessions whose time has come."""
        for session in list(self._known.values()):
            self.over(session)

    def end_all(self) -> None:
        for digest in list(self._known):
            self._drop(digest)

    def all(self) -> list[SignedIn]:
        return list(self._known.values())

    def _drop(self, digest: bytes) -> None:
        session = self._known.pop(digest)
        session.over = True
        self._ended(session)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
