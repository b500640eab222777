"""Provides databases of their own for the tests of the backend half, spoken to without the proxy."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend

from secretproxy.install import install

_NUMBERS = itertools.count(1)


class Database:
    """A database that is dropped at the end of its fixture."""

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend = backend
        self.name = name

    def dsn(self, user: str = "postgres") -> str:
        return self.backend.dsn(user, self.name)

    def connect(self, user: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(user), autocommit=True)

    def install(self, direct_calls: str | None = "log", accepting: tuple[str, ...] = ()) -> list[str]:
        """Installs the backend half, with direct calls let through as a migration allows: most tests here make them."""
        return asyncio.run(install(self.dsn(), self.backend.key_file, direct_calls=direct_calls, accepting=accepting))


@contextmanager
def database(backend: Backend) -> Iterator[Database]:
    made = Database(backend, f"sql_{next(_NUMBERS)}")
    with psycopg.connect(backend.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {made.name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield made
        finally:
            admin.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture
def empty(postgres: Backend) -> Iterator[Database]:
    with database(postgres) as made:
        yield made


@pytest.fixture
def fresh(empty: Database) -> Database:
    empty.install()
    return empty


@pytest.fixture(scope="module")
def installed(postgres: Backend) -> Iterator[Database]:
    """Gives a database for the whole module, with cheap passwords."""
    with ExitStack() as stack:
        made = stack.enter_context(database(postgres))
        made.install()
        with made.connect() as admin:
            admin.execute("UPDATE secretproxy.settings SET crypt_cost = 4")
        yield made
