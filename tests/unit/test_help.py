"""Checks what `--help` prints: whole sentences, within a terminal of 80 columns, of every command."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from secretproxy.cli.app import app


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, (*path, name))


@pytest.mark.parametrize("path", list(commands(get_command(app))), ids=lambda path: " ".join(path) or "secretproxy")
def test_help_is_whole_and_names_what_to_give(path: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": ""})
    assert ran.exit_code == 0 and max(map(len, ran.output.splitlines())) <= 80
    # A summary that does not fit is cut, and a number without a name is `<int range>`, for typer.
    assert not re.search(r"\.\.\.$|<(int|float) range>", ran.output.replace("[ARGS]...", ""), re.MULTILINE), ran.output
    for summary in re.findall(r"^  [a-z]+  +(.*)$", ran.output.partition("\nCommands:\n")[2], re.MULTILINE):
        assert summary[0].isupper() and summary.endswith("."), summary


def test_every_command_is_known_here() -> None:
    assert isinstance(app, typer.Typer) and ("audit", "review") in set(commands(get_command(app)))
