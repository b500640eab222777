"""Runs commands of secretproxy for tests that check the status and the one line of the message."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.cli import secretproxy


@dataclass
class Said:
    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Gives the one line that says what went wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("secretproxy: ")]
        return line


def run(*arguments: str) -> Said:
    """Runs a command with the environment and the directory of now."""
    done = secretproxy(arguments)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)
