"""Sends a page in parts: its frame at once, then each part when its question is answered, in the order of the page.

A part that is not there soon says what it waits for, and the style sheet hides that once the part has come: nothing of
it needs a script. Parts are made one after the other, so that a page asks one question at a time. When the reader
leaves, the question is cancelled. No I/O but what a part does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

# Seconds until a part that is not there says what it waits for.
SOON = 0.15
_PLACE = re.compile("\0part:([a-z-]+)\0")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page: its template, what the page says while it waits, and what gives the template's values."""

    template: str
    waits: str
    values: Callable[[], Awaitable[Mapping[str, Any]]]


def place(name: str) -> Markup:
    """Marks where a part stands in its page. No value of a page has the character NUL."""
    return Markup(f"\0part:{name}\0")  # noqa: S704 - a template's own word


async def in_parts(
    frame: str,
    parts: Mapping[str, Part],
    made: Callable[[Part, asyncio.Event], Awaitable[str]],
    waiting: Callable[[Part, bool], str],
) -> AsyncIterator[bytes]:
    """Yields a page whose frame has places for parts.

    `made` gives a part's HTML, sets the event when it begins and raises nothing; `waiting` gives what the page says
    until then, by whether that has begun.
    """
    texts = _PLACE.split(frame)
    before = texts[0]
    for name, after in zip(texts[1::2], texts[2::2], strict=True):
        part = parts[name]
        yield f'{before}<div class="part" id="part-{name}">'.encode()
        begun = asyncio.Event()
        work = asyncio.ensure_future(made(part, begun))
        try:
            done, _ = await asyncio.wait({work}, timeout=SOON)
            if not done:
                yield waiting(part, begun.is_set()).encode()
            yield f"{await work}</div>".encode()
        finally:
            work.cancel()
        before = after
    yield before.encode()
