"""Shows how far a command is, on standard error, where that is a terminal."""

from __future__ import annotations

from typing import Any


class CountProgress:
    """Says in a terminal what is being counted."""

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(), TextColumn("counting {task.description}"), TimeElapsedColumn(), console=console,
            transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._bar.start()
        task = self._bar.add_task("", total=None)
        return lambda text: self._bar.update(task, description=text)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class RowsProgress:
    """Says in a terminal what is done with rows, how many are done, and of how many if that is known."""

    def __init__(self, what: str, *, shown: bool = True) -> None:
        self._what, self._shown = what, shown

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            self._what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            disable=not (self._shown and console.is_terminal),
        )  # fmt: skip
        self._bar.start()
        task = self._bar.add_task(self._what, total=None)

        def progress(done: int, total: int | None = None) -> None:
            self._bar.update(task, completed=done, total=total and max(done, total))

        return progress

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
