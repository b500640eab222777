"""Every page says when the proxy is gone or cannot write, and no more when it is back."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from secretproxy.config import HealthSettings, Settings
from secretproxy.console import proxy_state
from secretproxy.console.proxy_state import ProxyState
from secretproxy.demo.postgres import free_port
from tests.conftest import Backend
from tests.console.conftest import settings_of
from tests.support.console import ConsoleSite, running

READY: dict[str, Any] = {"status": "ready", "reasons": [], "warnings": []}
LOG: dict[str, Any] = {"status": "available", "reasons": [], "warnings": [], "events_waiting": 0}


class FakeHealth(http.server.ThreadingHTTPServer):
    """Answers as /readyz and /logz do."""

    answers: dict[str, tuple[int, Any]] = {}  # noqa: RUF012 - of the one instance


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, FakeHealth)
        status, body = self.server.answers[self.path]
        if not status:
            self.wfile.write(b"no HTTP\r\n\r\n")
            return
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def health() -> Iterator[FakeHealth]:
    with FakeHealth(("127.0.0.1", 0), Handler) as server:
        server.answers = {"/readyz": (200, READY), "/logz": (200, LOG)}
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.mark.parametrize(
    ("answers", "said", "waiting"),
    [
        ({}, "", 0),
        ({"/logz": (200, LOG | {"events_waiting": 7, "status": "spooling", "reasons": ["x"]})}, "", 7),
        ({"/readyz": (503, READY | {"status": "not ready", "reasons": ["no backend answers"]})}, "The proxy says: not ready (no backend answers).", 0),
        ({"/logz": (503, LOG | {"status": "unavailable", "reasons": ["a", "b\u202e"], "events_waiting": 3})}, "The proxy says: unavailable (a; b\\u202e).", 3),
        ({"/logz": (503, LOG | {"status": "wrong key", "reasons": "none"})}, "The proxy says: wrong key.", 0),
        ({"/logz": (200, b"<html>")}, "does not answer at", None), ({"/readyz": (200, [1])}, "does not answer at", None), ({"/logz": (0, "")}, "does not answer at", None),
    ],
    ids=["well", "waiting", "no backend", "no log", "wrong key", "another server", "another JSON", "no HTTP"],
)  # fmt: skip
def test_what_the_proxy_answers_is_told(
    health: FakeHealth, answers: dict[str, Any], said: str, waiting: int | None
) -> None:
    health.answers |= answers
    problem, found = ProxyState(HealthSettings(port=health.server_port))._look()
    assert (said in problem if said else problem == "") and found == waiting


def test_every_page_says_that_the_proxy_is_gone(
    site: ConsoleSite, postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_state, "EVERY", 0.05)
    port = free_port()
    given = settings_of(postgres).model_dump() | {"health": {"port": port}}
    with running(postgres.dsn("nobody"), Settings.model_validate(given)) as found:
        reader = found.browser()
        assert reader.sign_in().status == 303 and "waits" not in reader.get("/sign-in").text

        def until(gone: bool) -> None:
            end = time.monotonic() + 30
            while ('id="proxy"' in reader.get("/incident").text) != gone:
                assert time.monotonic() < end

        until(True)
        for path in ("/", "/accesses", "/findings", "/incident", "/compare", "/integrity", "/reviews", "/doctor"):
            assert f"The proxy does not answer at 127.0.0.1:{port}" in reader.get(path).text, path
        assert 'id="proxy"' not in reader.get("/sign-in").text
        with FakeHealth(("127.0.0.1", port), Handler) as server:
            server.answers = {"/readyz": (200, READY), "/logz": (200, LOG | {"events_waiting": 1234})}
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            until(False)
            assert "1,234 events in the proxy" in reader.get("/").text
            server.shutdown()
            thread.join(10)
        until(True)


def test_a_proxy_without_a_health_port_is_not_asked(site: ConsoleSite) -> None:
    assert not site.console.proxy.asked and site.console.proxy.problem == ""
