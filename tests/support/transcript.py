"""Compares transcripts in the docs: blocks of `console` whose commands are run and whose output is compared word for
word.

After a wanted change, TEST_WRITE_TRANSCRIPTS=1 writes the output anew; read the difference.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs(directory: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Gives variables with which the command `secretproxy` is this source, and few other things are set."""
    made = directory / ".programs"
    made.mkdir()
    program = made / "secretproxy"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m secretproxy "$@"\n')
    program.chmod(0o755)
    return {
        "PATH": f"{made}:/usr/bin:/bin",
        "HOME": str(directory),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **environment,
    }


def played(text: str, directory: Path, environment: Mapping[str, str]) -> str:
    """Gives the text with the output of its commands, run in a directory one after another."""
    variables = programs(directory, environment)

    def block(found: re.Match[str]) -> str:
        lines = []
        for line in found[1].splitlines():
            if not line.startswith("$ "):
                continue
            done = subprocess.run(
                ["bash", "-c", line[2:]], cwd=directory, env=variables, check=False, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
            )  # fmt: skip
            lines += [line, *(output.rstrip() for output in done.stdout.splitlines())]
        return "```console\n" + "".join(f"{line}\n" for line in lines) + "```"

    return _BLOCK.sub(block, text)


def checked(
    document: Path, directory: Path, environment: Mapping[str, str], same: Mapping[str, str] | None = None
) -> None:
    """Runs a document's commands; what they say must be what stands there. `same`: what some versions say, and what the
    document says."""
    text = document.read_text()
    found = played(text, directory, environment)
    for other, written in (same or {}).items():
        found = found.replace(other, written)
    if os.environ.get("TEST_WRITE_TRANSCRIPTS"):
        document.write_text(found)
        return
    assert found.splitlines() == text.splitlines()
