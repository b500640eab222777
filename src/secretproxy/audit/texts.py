"""Shows texts that a client chose to people, in the terminal and on pages alike. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def safe(value: object, shows: Callable[[str], bool] = str.isprintable) -> str:
    """Shows a client's text with an escape for what would move the cursor, hide text or turn it round.

    `shows` says whether a text can be shown as it is."""
    text = "" if value is None else str(value)
    if shows(text):
        return text
    return "".join(char if shows(char) else char.encode("unicode_escape").decode() for char in text)


def quoted(name: str | None, shows: Callable[[str], bool] = str.isprintable) -> str:
    """Shows a name so that no two look alike: in quotes where it could be read as several, as none or as an escape."""
    if name is None:
        return "(null)"
    plain = shows(name) and "," not in name and name == name.strip() and not name.startswith('"')
    if plain and name not in ("", "?", "(null)"):
        return name
    return '"' + safe(name.replace("\\", "\\\\").replace('"', '\\"'), shows) + '"'


def listed(names: Iterable[str | None] | None, shows: Callable[[str], bool] = str.isprintable) -> str:
    """Shows several names; `?` if they are not known."""
    return "?" if names is None else ", ".join(quoted(name, shows) for name in names)
