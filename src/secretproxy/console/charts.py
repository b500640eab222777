"""Charts as SVG, drawn here: bars over time, time lines, a grid of hours by weekdays, a bar next to a number.

Every mark has its value as a title for the pointer, and the page shows the same figures as a table. No style attribute,
no script: what a mark looks like is the style sheet's, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 150
_LEFT, _BOTTOM, _TOP = 44, 20, 8
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def bars(
    title: str,
    steps: Sequence[tuple[str, Mapping[str, int]]],
    kinds: Sequence[str],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Draws stacked bars: `steps` are labels with a count for each of `kinds`, the lowest first. `marks`: shares of the
    whole time, 0 to 1, with what the pointer shows."""
    most = max((sum(counts.values()) for _, counts in steps), default=0)
    top = ceiling(most)
    inner_width, inner_height = WIDTH - _LEFT - 4, HEIGHT - _BOTTOM - _TOP
    width = inner_width / max(len(steps), 1)
    out = [_open(title, WIDTH, HEIGHT)]
    for part in (0, 0.5, 1):
        y = _TOP + inner_height * (1 - part)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - 4}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(int(top * part))}</text>'
        )
    every = max(1, round(len(steps) / 8))
    for place, (label, counts) in enumerate(steps):
        x, y = _LEFT + place * width, float(_TOP + inner_height)
        for kind in kinds:
            count = counts.get(kind, 0)
            if count:
                height = inner_height * count / top
                y -= height
                out.append(
                    f'<rect class="bar {escape(kind)}" x="{x + 0.5:.1f}" y="{y:.1f}" '
                    f'width="{max(width - 1, 0.8):.1f}" height="{height:.1f}">'
                    f"<title>{escape(label)}: {count:,} {escape(kind)}</title></rect>"
                )
        if place % every == 0 and x < WIDTH - 40:
            out.append(
                f'<text class="tick" x="{x + width / 2:.1f}" y="{HEIGHT - 5}" '
                f'text-anchor="middle">{escape(label)}</text>'
            )
    for at, text in marks:
        x = _LEFT + inner_width * _within(at)
        out.append(
            f'<path class="rotation" d="M{x:.1f} {_TOP}v{inner_height}l-4 -7h8l-4 7z">'
            f"<title>{escape(text)}</title></path>"
        )
    return "".join(out) + "</svg>"


def hours(title: str, counts: Mapping[tuple[int, int], int]) -> str:
    """Draws a grid of weekdays (0 is Monday) by hours; `counts` by (weekday, hour)."""
    cell, left, top = 26, 40, 18
    most = max(counts.values(), default=0)
    out = [_open(title, left + 24 * cell + 4, top + 7 * cell + 4)]
    for hour in range(0, 24, 3):
        out.append(
            f'<text class="tick" x="{left + hour * cell + cell / 2}" y="12" text-anchor="middle">{hour:02d}</text>'
        )
    for day, name in enumerate(DAYS):
        out.append(f'<text class="tick" x="{left - 8}" y="{top + day * cell + 17}" text-anchor="end">{name}</text>')
        for hour in range(24):
            count = counts.get((day, hour), 0)
            level = 0 if not count else 1 + min(4, int(4 * count / most))
            out.append(
                f'<rect class="cell level{level}" x="{left + hour * cell + 1}" y="{top + day * cell + 1}" '
                f'width="{cell - 2}" '
                f'height="{cell - 2}" rx="2"><title>{name} {hour:02d}:00: {count:,}</title></rect>'
            )
    return "".join(out) + "</svg>"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a time line: a bar from `first` to `last`, which is closed or open, with marks and gaps on it.

    Times are shares of the whole, 0 to 1; texts are what the pointer shows.
    """

    label: str
    text: str
    kind: str
    first: float
    last: float
    closed: bool
    marks: Sequence[tuple[float, str]] = ()
    gaps: Sequence[tuple[float, str]] = ()


def lines(title: str, ticks: Sequence[str], rows: Sequence[Line]) -> str:
    """Draws time lines one above the other; `ticks` are the labels of the time, evenly spaced from its beginning."""
    left, row_height, top = 84, 20, 20
    width, height = WIDTH - left - 12, top + row_height * len(rows) + 6
    out = [_open(title, WIDTH, height)]
    for place, label in enumerate(ticks):
        x = left + width * place / max(len(ticks), 1)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{height - 4}"/>')
        out.append(f'<text class="tick" x="{x + 2:.1f}" y="12">{escape(label)}</text>')
    for number, row in enumerate(rows):
        y = top + number * row_height
        begin, end = left + width * _within(row.first), left + width * _within(row.last)
        out.append(f'<text class="tick" x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(row.label)}</text>')
        out.append(
            f'<rect class="chain {escape(row.kind)}" x="{begin:.1f}" y="{y + 5}" width="{max(end - begin, 2):.1f}" '
            f'height="8"><title>{escape(row.text)}</title></rect>'
        )
        for at, text in row.marks:
            x = left + width * _within(at)
            out.append(
                f'<rect class="mark" x="{x - 1:.1f}" y="{y + 2}" width="2" height="14">'
                f"<title>{escape(text)}</title></rect>"
            )
        x = max(end, begin + 2)
        if row.closed:
            out.append(f'<rect class="shut" x="{x:.1f}" y="{y + 1}" width="3" height="16"/>')
        else:
            out.append(f'<path class="open" d="M{x:.1f} {y + 4}l6 5l-6 5z"/>')
        for at, text in row.gaps:
            x = left + width * _within(at)
            out.append(f'<path class="gap" d="M{x:.1f} {y}l6 9l-6 9l-6 -9z"><title>{escape(text)}</title></path>')
    return "".join(out) + "</svg>"


def _within(part: float) -> float:
    return min(1.0, max(0.0, part))


def share(value: int, most: int) -> str:
    """Draws a bar whose length is `value` in proportion to `most`."""
    width = 0 if not most else 100 * value / most
    return (
        f'<svg class="share" viewBox="0 0 100 8" role="presentation" aria-hidden="true" preserveAspectRatio="none">'
        f'<rect class="bar read" x="0" y="0" width="{width:.1f}" height="8"/></svg>'
    )


def ceiling(most: int) -> int:
    """Gives the next number of the form 1, 2 or 5 times a power of ten."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= most:
                return factor * step
        step *= 10


def short(number: int) -> str:
    """Writes a number with at most four characters."""
    for size, sign in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + sign
    return str(number)


def _open(title: str, width: int, height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>"
    )
