"""Provides a console that runs in this process, on a clock that a test can turn, and a browser without a screen: raw
requests and a cookie."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import uvicorn

from secretproxy.config import Settings
from secretproxy.console.app import Console
from secretproxy.console.pages import PAGES
from secretproxy.console.recording import recorder_of
from secretproxy.console.serve import database_of
from secretproxy.demo.postgres import free_port
from tests.conftest import Backend

PASSWORD = "console pass'word"
LOGINS = ("console_auditor", "console_colleague", "console_outsider")
# Records what is read.
WRITER = "console_writer"


class Clock:
    """Time as it is, and what was put before it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def location(self) -> str:
        return self.headers["location"] or ""


@dataclass
class Browser:
    """Sends what it is told, byte for byte, with the cookies that it was given."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def send(
        self, method: str, path: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = None if form is None else urlencode(form)
        sent = {"Host": f"127.0.0.1:{self.port}"}
        if form is not None:
            sent |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{self.port}"}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= headers or {}
        connection.request(method, path, body, {name: value for name, value in sent.items() if value})
        got = connection.getresponse()
        body = got.read()
        # A part of a page that failed is as bad as the page: it says the status that a page of its own would have.
        parts = [int(number) for number in re.findall(rb'<p class="problem" role="alert" data-status="(\d+)">', body)]
        answer = Answer(max([got.status, *parts]), got.headers, body)
        connection.close()
        for line in got.headers.get_all("set-cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
            if not self.cookies[name]:
                del self.cookies[name]
        return answer

    def get(self, path: str, query: dict[str, str] | None = None, **headers: str) -> Answer:
        return self.send("GET", path + (f"?{urlencode(query)}" if query else ""), headers=headers)

    def sign_in(self, user: str = "console_auditor", password: str = PASSWORD, to: str = "") -> Answer:
        return self.send(
            "POST", "/sign-in" + (f"?{urlencode({'to': to})}" if to else ""), {"user": user, "password": password}
        )

    def csrf(self) -> str:
        return self.get("/integrity").text.partition('name="csrf" value="')[2].partition('"')[0]


@dataclass
class ConsoleSite:
    console: Console
    port: int
    clock: Clock

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def browser(self) -> Browser:
        return Browser(self.port)


@contextmanager
def logins_with_passwords(backend: Backend) -> Iterator[None]:
    """Creates an auditor, a colleague and a login that is not an auditor, whose passwords the server checks."""
    assert backend.server is not None
    rules = backend.server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("".join(f"host all {name} 127.0.0.1/32 scram-sha-256\n" for name in LOGINS) + before)
    with psycopg.connect(backend.dsn(), autocommit=True) as admin:
        for name in LOGINS:
            admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
        admin.execute("GRANT secretproxy_auditor TO console_auditor, console_colleague")
        admin.execute(f"CREATE ROLE {WRITER} LOGIN IN ROLE secretproxy_writer")
        admin.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        rules.write_text(before)
        with psycopg.connect(backend.dsn(), autocommit=True) as admin:
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(f"DROP ROLE {', '.join(LOGINS)}, {WRITER}")


@contextmanager
def running(dsn: str, settings: Settings, config: Path | None = None) -> Iterator[ConsoleSite]:
    clock, port = Clock(), free_port()
    console = Console(database_of(dsn), settings, config, recorder_of(settings), tls=False, clock=clock)
    server = uvicorn.Server(
        uvicorn.Config(
            console.application(PAGES),
            host="127.0.0.1",
            port=port,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the console did not start"
        time.sleep(0.01)
    try:
        yield ConsoleSite(console, port, clock)
    finally:
        server.should_exit = True
        thread.join(60)
