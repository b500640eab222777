"""Shows texts that a client chose to people, in the terminal and on pages alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def safe(value: object) -> str:
    """Shows a client's text with an escape for what would move the cursor, hide text or turn it round."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(name: str | None) -> str:
    """Shows a name so that no two look alike: in quotes where it could be read as several, as none or as an escape."""
    if name is None:
        return "(null)"
    plain = name.isprintable() and "," not in name and name == name.strip() and not name.startswith('"')
    if plain and name not in ("", "?", "(null)"):
        return name
    return '"' + safe(name.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def listed(names: Iterable[str | None] | None) -> str:
    """Shows several names; `?` if they are not known."""
    return "?" if names is None else ", ".join(map(quoted, names))
