"""Gives a proxy that does nothing but what a test of bounds does, so that its memory is that test's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bounds.wire import Client
from tests.conftest import Backend
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
def quiet(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    running = Proxy(tmp_path_factory.mktemp("quiet"), postgres.address, postgres.dsn("journal"), postgres.key_file)
    running.config.write_text(running.config.read_text().replace("level = 'debug'", "level = 'info'"))
    running.start()
    running.wait_for_text("access log can be written")
    # What is taken once, whoever comes: code, caches, the allocator's first arenas.
    with Client(running.port) as client:
        for _ in range(20):
            client.query("SELECT repeat('x', 1000000)")
    yield running
    running.stop()
