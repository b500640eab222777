"""Runs one scenario of a client directly and through the proxy, each time in a schema of its own that is new; what it
gives must be equal."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Backend

SCHEMA = "scenario"


@dataclass(frozen=True)
class Way:
    """One of the two ways to the backend, as a scenario sees it."""

    name: str
    host: str
    port: int
    backend: Backend
    directory: Path

    def dsn(self, user: str = "app_user", database: str = "app") -> str:
        return f"postgresql://{user}@{self.host}:{self.port}/{database}?options=-csearch_path%3D{SCHEMA}"

    def plain(self, user: str = "app_user", database: str = "app") -> str:
        return f"postgresql://{user}@{self.host}:{self.port}/{database}"

    def run(
        self, program: str, *arguments: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of PostgreSQL's programs."""
        done = subprocess.run(
            [self.backend.program(program), *arguments], input=text, capture_output=True, text=True, timeout=120, check=False,
            cwd=self.directory, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.directory), "PGTZ": "UTC"},
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done


@dataclass(frozen=True)
class Both:
    """Runs scenarios both ways."""

    direct: Way
    proxied: Way

    def same(self, scenario: Callable[[Way], Any]) -> Any:
        """Runs a scenario, plain or async, both ways; gives what it gave."""
        results = []
        for way in (self.direct, self.proxied):
            with psycopg.connect(way.backend.dsn(), autocommit=True) as connection:
                connection.execute("SET lock_timeout = '10s'")
                connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
                connection.execute(f"CREATE SCHEMA {SCHEMA} AUTHORIZATION app_user")
            found = scenario(way)
            results.append(asyncio.run(_result(found)) if inspect.isawaitable(found) else found)
        assert results[1] == results[0], _difference(*results)
        return results[0]


def _difference(direct: Any, proxied: Any) -> str:
    """Shows where two results differ."""
    lines = [
        [str(part) for part in (found if isinstance(found, list | tuple) else [found])] for found in (direct, proxied)
    ]
    return "\n".join(
        difflib.unified_diff(*("\n".join(part).splitlines() for part in lines), "direct", "proxied", lineterm="", n=1)
    )


async def _result(waiting: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(waiting, 60)


def needs(backend: Backend, *programs: str) -> None:
    """Skips where the PostgreSQL in use lacks one of its programs."""
    for program in programs:
        if backend.server is None or not backend.server.binaries.has(program):
            pytest.skip(f"the PostgreSQL in use has no {program}")


def needs_command(*commands: str) -> None:
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"this machine has no {command}")


def told(error: BaseException) -> tuple[str, str | None, str]:
    """Describes an error of any driver: its class, SQLSTATE and text."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return type(error).__name__, state, re.sub(r"port \d+|process \d+|PID \d+", "#", str(error)).strip()
