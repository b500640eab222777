"""Shows values of the log on pages, and loads the templates that show them.

Jinja2 escapes every value. What a client chose reaches a page through `audit.texts` alone, as it reaches a terminal: a
character that would hide or turn text round is shown as its escape. Times carry both zones; what is shortened is whole
on a click."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from secretproxy.audit.records import pairs
from secretproxy.audit.review import forgery_cause
from secretproxy.audit.texts import listed, quoted, safe
from secretproxy.console import charts
from secretproxy.console.parts import place

_SHORT = 48


def shortened(value: Any) -> str:
    """Shows the same without its middle if it is long, so that two names that differ at either end look different."""
    text = safe(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT // 2]}…{text[-_SHORT // 2 + 1 :]}"


def folded(value: Any) -> Markup:
    """Shows a text, a long one shortened, and whole on a click."""
    text, short = safe(value), shortened(value)
    if text == short:
        return escape(text)
    return Markup('<details class="cut"><summary>{}</summary>{}</details>').format(short, text)


def names(value: Iterable[str | None] | None) -> list[str | None]:
    """Gives the names of a row; an empty list if no name is known."""
    return [] if value is None else list(value)


def utc(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def local(value: datetime) -> str:
    """Shows a time in this machine's zone, with its name."""
    there = value.astimezone()
    return f"{there:%Y-%m-%d %H:%M:%S} {there.tzname()}"


def instant(value: datetime | None) -> Markup:
    """Shows a time on a page: in UTC, the local time on hover, ISO 8601 for machines."""
    if value is None:
        return Markup("")
    return Markup('<time datetime="{}" title="{}">{}<span class="zone"> UTC</span></time>').format(
        value.astimezone(UTC).isoformat(), local(value), utc(value)
    )


def whole(value: Any) -> str:
    """Shows any value of the log in full."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return listed(None if item is None else str(item) for item in value)
    return safe(value)


def brief(value: uuid.UUID | None) -> str:
    return "" if value is None else str(value)[:8]


def origin(row: Mapping[str, Any]) -> str:
    address = row["client_addr"]
    return "Unix socket" if address is None else str(address).removesuffix("/32").removesuffix("/128")


def link(path: str, **query: Any) -> str:
    """Makes a path with the parts of a query that are not empty."""
    given = {name: value for name, value in query.items() if value not in (None, "", ())}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def number(value: int) -> str:
    return f"{value:,}"


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: int, most: int) -> Markup:
    return Markup(charts.share(value, most))  # noqa: S704 - drawn of numbers alone


def _source(name: str) -> str | None:
    found = files("secretproxy.console") / "templates" / name
    return found.read_text(encoding="utf-8") if "/" not in name and found.is_file() else None


def environment() -> Environment:
    """Loads the package's templates; escapes every value, and makes an unknown name an error."""
    made = Environment(
        loader=FunctionLoader(_source),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        visible=safe, quoted=quoted, listed=listed, folded=folded,
        whole=whole, shortened=shortened, names=names, utc=utc, local=local, instant=instant,
        brief=brief, origin=origin,
        number=number, rate=rate, forgery_cause=forgery_cause,
    )  # fmt: skip
    made.globals.update(link=link, share=_share, pairs=pairs, part=place)
    return made
