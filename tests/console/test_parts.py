"""Checks that a page comes at once and its parts when they are counted: what waits says so, what fails says so in its
place, and what nobody waits for is cancelled.

A lock on the checkpoints, which the overview's first part reads, makes that part wait as a count of many rows does."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from secretproxy.config import HealthSettings, Settings
from secretproxy.console import app, live, proxy_state, reading
from secretproxy.console.parts import Part, in_parts, place
from secretproxy.console.proxy_state import ProxyState
from secretproxy.demo.postgres import free_port
from tests.conftest import Backend
from tests.console.conftest import settings_of
from tests.console.test_pages import events, stream
from tests.console.test_routes import FILES, READ, ask
from tests.support.console import Browser, ConsoleSite, running
from tests.support.silent import Silent

_WAITING = """SELECT count(*) FROM pg_stat_activity WHERE usename = 'console_auditor' AND wait_event_type = 'Lock'
 AND query LIKE '%checkpoints%'"""


@contextmanager
def held(postgres: Backend) -> Iterator[psycopg.Connection]:
    """Holds the lock until the block ends or `rollback`."""
    with psycopg.connect(postgres.dsn()) as sql:
        sql.execute("LOCK TABLE secretproxy.checkpoints IN ACCESS EXCLUSIVE MODE")
        yield sql
        sql.rollback()


def until_waiting(postgres: Backend, count: int) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        end = time.monotonic() + 30
        while sql.execute(_WAITING).fetchone() != (count,):
            assert time.monotonic() < end, f"not {count} questions wait"
            time.sleep(0.02)


def read_to(answer: http.client.HTTPResponse, text: str) -> str:
    found = ""
    while text not in found:
        part = answer.read1(65536)
        assert part, found
        found += part.decode()
    return found


def test_the_page_is_there_before_its_parts(auditor: Browser, postgres: Backend, owner: str) -> None:
    with held(postgres) as lock:
        answer = stream(auditor, "/")
        began = read_to(answer, 'class="waiting"')
        assert answer.status == 200 and "</h1>" in began and "Last row" not in began and "</main>" not in began
        lock.rollback()
        rest = answer.read().decode()
    assert "Last row" in rest and "stripe" in rest and rest.rstrip().endswith("</html>")
    assert "data-status" not in rest


def test_a_question_of_a_reader_who_left_is_cancelled(auditor: Browser, postgres: Backend) -> None:
    """The question is cancelled while the server works on it, not when it is through."""
    with held(postgres):
        for _ in range(2):
            answer = stream(auditor, "/")
            read_to(answer, 'class="waiting"')
            until_waiting(postgres, 1)
            answer.close()
            until_waiting(postgres, 0)
    assert auditor.get("/").status == 200


def test_a_part_that_fails_says_so_and_the_others_come(auditor: Browser, postgres: Backend, owner: str) -> None:
    with held(postgres) as lock:
        answer = stream(auditor, "/")
        until_waiting(postgres, 1)
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute(_WAITING.replace("count(*)", "pg_terminate_backend(pid)"))
        text = read_to(answer, 'class="problem"')
        lock.rollback()
        text += answer.read().decode()
    assert text.count('class="problem"') == 1 and "Last row" not in text
    assert "stripe" in text and 'id="part-counts"' in text and text.rstrip().endswith("</html>")


def test_at_most_two_parts_of_one_reader_are_made_at_once(auditor: Browser, postgres: Backend) -> None:
    with held(postgres) as lock:
        answers = []
        for number in range(3):
            answers.append(stream(auditor, "/"))
            began = read_to(answers[-1], 'class="waiting"')
            assert ("Your other pages are counted first" in began) == (number == 2)
            until_waiting(postgres, min(number + 1, 2))
        lock.rollback()
        assert all("Last row" in answer.read().decode() for answer in answers)


def test_a_page_that_gets_no_connection_gives_up(
    site: ConsoleSite, auditor: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live pages and downloads of the same reader may hold all of them."""
    monkeypatch.setattr(app, "REQUEST_SECONDS", 0.2)
    session = next(one for one in site.console.sessions.all() if one.user == "console_auditor")
    for _ in range(reading.MOST_CONNECTIONS):
        # One by one, as nobody waits for it.
        assert not session.reader._free.locked()
        session.reader._free._value -= 1
    answer = auditor.get("/accesses")
    assert answer.status == 503 and "There was no answer in time" in answer.text
    session.reader._free._value += reading.MOST_CONNECTIONS
    monkeypatch.undo()
    assert auditor.get("/accesses").status == 200


def test_nothing_more_comes_of_a_session_that_has_ended(site: ConsoleSite, postgres: Backend, owner: str) -> None:
    reader = site.browser()
    site.clock.ahead += 61
    assert reader.sign_in("console_colleague").status == 303
    csrf = reader.csrf()
    with held(postgres) as lock:
        answer = stream(reader, "/")
        read_to(answer, 'class="waiting"')
        assert Browser(reader.port, dict(reader.cookies)).send("POST", "/sign-out", {"csrf": csrf}).status == 303
        lock.rollback()
        rest = answer.read().decode()
    assert rest.count("Your session has ended") == 3 and "Last row" not in rest and "stripe" not in rest


def test_a_network_that_is_cut_without_a_word_is_said_and_comes_back(
    site: ConsoleSite, postgres: Backend, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that waits, a live page and a page on kept connections: no byte tells any of them."""
    monkeypatch.setattr(reading, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(reading, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(live, "SILENT", 1.5)
    with Silent(postgres.host, postgres.port) as relay:
        dsn = postgres.dsn("nobody").replace(str(postgres.port), str(relay.port))
        with running(f"{dsn}?connect_timeout=1", settings_of(postgres)) as cut:
            reader = cut.browser()
            assert reader.sign_in().status == 303 and reader.get("/accesses").status == 200
            tail = stream(reader, "/live?known=2026-11-24")
            while events(tail)[0][0] != "there":
                pass
            with held(postgres):
                answer = stream(reader, "/")
                read_to(answer, 'class="waiting"')
                until_waiting(postgres, 1)
                relay.hush()
                text = read_to(answer, 'class="problem"')
                assert "Last row" not in text
                answer.close()
            assert events(tail)[0][0] == "lost"
            assert (away := reader.get("/accesses")).status == 503 and "The log did not answer" in away.text
            relay.speak()
            assert events(tail)[0][0] == "there"
            assert reader.get("/accesses").status == 200
            tail.close()


async def test_parts_come_in_the_order_of_the_page() -> None:
    made: list[str] = []

    async def make(part: Part, begun: asyncio.Event) -> str:
        made.append(part.template)
        return f"<{part.template}>"

    async def nothing() -> dict[str, str]:
        return {}

    parts = {name: Part(name, "", nothing) for name in ("one", "two", "left-out")}
    frame = f"a{place('two')}b{place('one')}c"
    text = b"".join([piece async for piece in in_parts(frame, parts, make, lambda part, begun: "")]).decode()
    assert text == 'a<div class="part" id="part-two"><two></div>b<div class="part" id="part-one"><one></div>c'
    assert made == ["two", "one"]
    with pytest.raises(KeyError):
        _ = [piece async for piece in in_parts(str(place("none")), parts, make, lambda part, begun: "")]


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
        shown = 0
        for entry in READ:
            if entry.path not in FILES and (answer := ask(reader, entry)).status == 200:
                assert f"The proxy does not answer at 127.0.0.1:{port}" in answer.text, entry.path
                shown += 1
        assert shown == len(READ) - len(FILES)
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
