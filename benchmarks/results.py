"""Writes sections of benchmarks/RESULTS.md, and leaves the others as they are. A section begins with a line `## ...`,
the first with `# `."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).parent / "RESULTS.md"


@dataclass
class Table:
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, work: str, figure: str, note: str = "") -> None:
        self.rows.append((work, figure, note))
        print(f"    {work}: {figure}  {note}", flush=True)

    def goal(
        self,
        work: str,
        value: float,
        wanted: float,
        *,
        least: bool,
        then: float | None = None,
        digits: int = 2,
        unit: str = "",
        note: str = "",
    ) -> None:
        """Adds a figure with its goal; `then`: the goal after that one."""
        reached = value >= wanted if least else value <= wanted
        sign = ">=" if least else "<="
        text = f"to reach: {sign} {wanted:g}{unit}: {'reached' if reached else '**not reached**'}"
        if then is not None:
            text += f", then {sign} {then:g}{unit}"
        self.add(work, f"{value:.{digits}f}{unit}", f"{text}{'; ' + note if note else ''}")

    def markdown(self) -> str:
        return "\n".join(f"| {work} | {figure} | {note} |" for work, figure, note in self.rows)


def machine(cores: int, version: str, load: float) -> str:
    """Describes the machine that figures are of, in a line."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{cores} cores ({model[1] if model else platform.machine()}), {int(memory[1]) // 1024 // 1024 if memory else '?'} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, PostgreSQL {version}; load {load:.1f} when it began"
    )


def write(title: str, text: str) -> None:
    """Puts a section in the place of the one of that title, or at the end; `# Results` is the first one."""
    known = re.split(r"(?m)^(?=##? )", FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    sections = [section.strip() for section in known if section.strip()]
    made = f"{title}\n\n{text.strip()}"
    places = [place for place, section in enumerate(sections) if section.partition("\n")[0] == title]
    if places:
        sections[places[0]] = made
    else:
        sections.append(made)
    FILE.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
