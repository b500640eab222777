"""Prints rows for the `secretproxy audit` commands: as a table for a person, as JSON and as CSV.

What a client has chosen reaches a terminal through `audit.texts` alone. In a terminal a cell may be shortened, in its
middle, so that two different texts stay different; what a table leaves out it names below itself. In a pipe nothing is
shortened, coloured or left out.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secretproxy.audit import texts
from secretproxy.audit.records import cell_of, plain, record_of, writer_to
from secretproxy.wire.types import SqlState

# Cells of a text that are given room before uuids are.
TEXT = 60
# Rows of a table in a pipe that decide the widths of its columns.
CHUNK = 1000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _shows(text: str) -> bool:
    """Says whether standard output can show a text as it is: a terminal may know few characters (LC_ALL=C, Latin-1)."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if not text.isprintable():
        return False
    try:
        return text.isascii() or bool(text.encode(encoding))
    except UnicodeEncodeError:
        return False


def safe(value: object) -> str:
    """Shows a client's text on standard output: see `audit.texts`."""
    return texts.safe(value, _shows)


def quoted(name: str | None) -> str:
    """Shows a name on standard output: see `audit.texts`."""
    return texts.quoted(name, _shows)


def listed(names: Iterable[str | None] | None) -> str:
    """Shows several names on standard output: see `audit.texts`."""
    return texts.listed(names, _shows)


def mark(character: str, simple: str) -> str:
    """Gives a character of the layout, or a simple one in its place where standard output does not know it."""
    return character if _shows(character) else simple


def ellipsis() -> str:
    return mark("…", "~")


def output_for_programs() -> None:
    """Makes standard output UTF-8, whatever the terminal's encoding is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def rows_to_output(as_csv: bool, raw: bool = False) -> Callable[[Any], None]:
    """Writes rows for programs to standard output."""
    output_for_programs()
    return writer_to(sys.stdout, as_csv, raw)


def names_of(row: Any) -> str:
    return listed(row["secret_names"])


def who(row: Any) -> str:
    login = safe(row["db_user"])
    return f"{login}/{safe(row['role'])}" if row["role"] and row["role"] != row["db_user"] else login


def how_ended(row: Any) -> str:
    ended = str(row["outcome"])
    if row["sqlstate"] and row["sqlstate"] != SqlState.SUCCESSFUL_COMPLETION:
        ended += f" {row['sqlstate']}"
    return ended


def address(row: Any) -> str:
    return "local" if row["client_addr"] is None else str(row["client_addr"]).removesuffix("/32")


def origin(row: Any) -> str:
    return f"{address(row)} direct" if row.get("how", row.get("event")) == "direct" else address(row)


def zone() -> str:
    from secretproxy.audit.filters import local_zone

    return local_zone()[0]


def in_full(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def console_of() -> Any:
    from rich.console import Console

    # In a pipe nothing is coloured and nothing is cut off.
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    return Console(**plain) if sys.stdout.isatty() else Console(**plain, width=1000, color_system=None)


def shortened(texts: Iterable[str], width: int) -> dict[str, str]:
    """Shortens each text to at most `width` cells.

    Keeps the beginning of a uuid, and drops the middle of other texts; different ones stay different.
    """
    from rich.cells import cell_len

    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for text in texts:
        if text in found:
            continue
        short = text
        if cell_len(text) > width:
            short = _beginning(text, width - 1) + ellipsis() if _UUID.fullmatch(text) else _without_middle(text, width)
            if taken.get(short, text) != text:
                digest = "#" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:4]
                short = _without_middle(text, max(3, width - len(digest))) + digest
        taken[short] = text
        found[text] = short
    return found


def _without_middle(text: str, width: int) -> str:
    last = max(1, (width - 1) // 2)
    end = _beginning(text[::-1], last)[::-1]
    return _beginning(text, max(1, width - 1 - last)) + ellipsis() + end


def _beginning(text: str, width: int) -> str:
    from rich.cells import cell_len

    used = 0
    for place, char in enumerate(text):
        used += cell_len(char)
        if used > width:
            return text[:place]
    return text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, its content, and the fewest cells that it needs.

    0 cells: as many as its texts have.
    """

    head: str
    text: Callable[[Any], str]
    least: int = 0
    right: bool = False


class Layout:
    """Widths of columns for rows.

    In a terminal of `width` cells columns shrink, and then the last of `spare` go, as far as that is needed.
    """

    def __init__(self, columns: Sequence[Column], width: int | None, spare: Sequence[str] = ()) -> None:
        self.columns = list(columns)
        self.left_out: list[str] = []
        self._width = width
        self._spare = list(spare)
        self._widths: list[int] = []
        self._gap = 1 if width is not None and width < 130 else 2

    def take(self, rows: Sequence[Any]) -> list[list[str]]:
        """Takes the cells of rows that are printed next; the first ones fix what is shown."""
        # Long because columns share one width: what one gets, the others lose.
        from rich.cells import cell_len

        cells = [[column.text(row) for column in self.columns] for row in rows]
        natural = [
            max([cell_len(column.head), *(cell_len(line[place]) for line in cells)])
            for place, column in enumerate(self.columns)
        ]
        if self._width is None:
            self._widths = [max(pair) for pair in zip(natural, self._widths or natural, strict=True)]
            return cells
        for name in self._spare:
            empty = [
                place
                for place, column in enumerate(self.columns)
                if column.head == name and not any(line[place] for line in cells)
            ]
            if empty:
                self._drop(empty[0], cells, natural)
        least = [max(cell_len(c.head), min(n, c.least or n)) for c, n in zip(self.columns, natural, strict=True)]
        while sum(least) + self._gap * (len(least) - 1) > self._width and self._spare:
            name = self._spare.pop()
            place = next((place for place, column in enumerate(self.columns) if column.head == name), None)
            if place is not None:
                self.left_out.append(name)
                del least[place]
                self._drop(place, cells, natural)
        widths = list(least)
        room = self._width - self._gap * (len(least) - 1) - sum(least)
        uuids = [place for place in range(len(least)) if any(_UUID.fullmatch(line[place]) for line in cells)]
        # Texts first, up to a length that tells most of them apart; then uuids, whole or by their beginning; then the
        # rest of the texts.
        for most in (TEXT, 0, self._width):
            for place in uuids if not most else ():
                if natural[place] - widths[place] <= room:
                    room -= natural[place] - widths[place]
                    widths[place] = natural[place]
            while room > 0 and (
                wanting := [
                    place
                    for place, width in enumerate(widths)
                    if place not in uuids and width < min(most, natural[place])
                ]
            ):
                for place in wanting[:room]:
                    widths[place] += 1
                room -= min(room, len(wanting))
        for place, width in enumerate(widths):
            short = shortened((line[place] for line in cells), width)
            for line in cells:
                line[place] = short[line[place]]
        self._widths = widths
        return cells

    def _drop(self, place: int, cells: list[list[str]], natural: list[int]) -> None:
        del self.columns[place], natural[place]
        for line in cells:
            del line[place]

    def line(self, cells: Sequence[str]) -> str:
        from rich.cells import cell_len

        padded = [
            " " * (width - cell_len(cell)) + cell if column.right else cell + " " * (width - cell_len(cell))
            for cell, width, column in zip(cells, self._widths, self.columns, strict=True)
        ]
        return (" " * self._gap).join(padded).rstrip()

    def heading(self) -> str:
        return self.line([column.head for column in self.columns])


def print_line(console: Any, text: str, style: str | None = None) -> None:
    console.print(text, style=style, soft_wrap=True)


async def tell_place(connection: Any, what: str = "looked in {}") -> None:
    """Says which database was read, and where missing calls are."""
    from secretproxy.audit import review

    where = await review.place(connection)
    say_place(what.format(where), where.others)


def say_place(looked: str, others: Sequence[str]) -> None:
    """Prints which database was read, and in which others there are calls that it does not have."""
    print(safe(looked), file=sys.stderr, flush=True)
    if others:
        names = safe(", ".join(others))
        print(
            f"calls that came by no proxy to {names} are in the access log of that database itself: give it with --dsn",
            file=sys.stderr,
        )


def tell_more(count: Any, shown: int, what: str) -> str | None:
    """Gives the last line of an output that was cut for a person, or None."""
    more = count.less(shown)
    if not more.number:
        return None
    return f"{shown:,} {what} shown, {more} more: --limit {shown * 10:d} shows more of them, --limit 0 all"


def say_more(line: str | None) -> None:
    """Prints the last line for a person; in a pipe it is not among the rows."""
    if line:
        print(line, file=sys.stdout if sys.stdout.isatty() else sys.stderr)


__all__ = [
    "CHUNK", "Column", "Layout", "cell_of", "console_of", "ellipsis", "how_ended", "in_full", "listed", "mark",
    "names_of", "origin", "output_for_programs", "plain", "print_line", "quoted", "record_of", "rows_to_output",
    "safe", "say_more", "say_place", "shortened", "tell_more", "tell_place", "who", "zone",
]  # fmt: skip
