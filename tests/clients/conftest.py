"""Provides both ways to the backend, for scenarios of other people's clients."""

from __future__ import annotations

import pytest
from tests.conftest import Backend
from tests.support.both import Both, Way
from tests.support.proxy import Proxy


@pytest.fixture
def both(postgres: Backend, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(
        Way("direct", postgres.host, postgres.port, postgres, tmp_path_factory.mktemp("direct")),
        Way("proxied", "127.0.0.1", proxy.port, postgres, tmp_path_factory.mktemp("proxied")),
    )
