"""Tries every route of the console, as its own table lists them, with what attackers send and with each part of the
system gone: a route or a filter that is new is tried too, or fails here."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import psycopg
import pytest
from starlette.routing import Route

from secretproxy.audit.paging import Cursor
from secretproxy.console.app import Entry
from secretproxy.console.pages import PAGES
from tests.conftest import Backend
from tests.console.test_attacks import recorded
from tests.console.test_pages import Tags, stream
from tests.support.console import WRITER, Answer, Browser, ConsoleSite

# A value that each filter takes, so that the others of its route are read as well. A new filter needs one here.
TAKEN = {
    "user": "app_user", "secret": "stripe", "owner": str(uuid.UUID(int=7)), "operation": "read", "outcome": "ok", "application": "app",
    "client": "127.0.0.1", "function": "secrets_getter", "jwt_user": str(uuid.UUID(int=8)), "session": str(uuid.UUID(int=9)), "role": "app_user",
    "sqlstate": "42501", "calls": "1", "duration": "1", "database": "app", "stored": "pgp", "via": "f", "how": "call", "protocol": "simple",
    "fingerprint": "f", "port": "1", "statement": "1", "instance": str(uuid.UUID(int=1)), "seq": "1", "id": str(uuid.UUID(int=2)),
    "since": "1h", "until": "1m", "before": str(Cursor(datetime(2026, 11, 24, tzinfo=UTC), 1, uuid.UUID(int=3))), "span": "24h", "format": "jsonl", "name": "app_user", "kind": "user",
    "by": "user", "month": "2020-01", "known": "2026-11-24T00:00:00+00:00",
    **{f"{side}_{name}": value for side, since in (("a", "2h"), ("b", "1h")) for name, value in (("since", since), ("until", "1m"), ("application", "app"), ("user", "app_user"))},
}  # fmt: skip
# What a page reads beside its filter, which is what is recorded.
BESIDE = {"/live": ("known",), "/integrity": ("span",)}
# What the forms of a route have. A new one needs its own here.
FORMS: dict[str, dict[str, str]] = {
    "/findings/acknowledge": {"kind": "direct", "finding": "0" * 32, "note": "known", "span": "7d"},
    "/reviews/sign-off": {"up_to": "1h", "note": "looked at all of it"},
    "/integrity/verify": {},
}
SQL = "'; DROP TABLE secretproxy.access_log; -- ' OR '1'='1 $1 ? \\' %s{0} {{7*7}}"
MARKUP = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
HEADER = "x\r\nSet-Cookie: fixed=1\r\n\r\n<script>alert(3)</script>"
CLIMBING = "../../../../etc/passwd"
NUL, BROKEN = "a\0b", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")
# What a route sends that is no page for people.
FILES = ("/live", "/download", "/export", "/incident/download", "/integrity/report", "/integrity/evidence")
READ = [entry for entry in PAGES if entry.method == "GET"]
WRITE = [entry for entry in PAGES if entry.method == "POST"]


def name_of(entry: Entry) -> str:
    return f"{entry.method} {entry.path}"


def path_of(entry: Entry, changes: dict[str, str] | None = None) -> str:
    """Gives the address of a route with a value for each of its parameters."""
    given = {name: TAKEN[name] for name in (*entry.filters, *BESIDE.get(entry.path, ()))}
    if entry.path == "/live":
        del given["until"]
    given |= changes or {}
    path = re.sub(r"\{(\w+)\}", lambda found: quote(given.pop(found[1]), safe=""), entry.path)
    return path + (f"?{urlencode(given)}" if given and entry.method == "GET" else "")


def ask(
    browser: Browser, entry: Entry, changes: dict[str, str] | None = None, csrf: str = "", **headers: str
) -> Answer:
    """Asks for a route. Of one that has no end, up to its first event: 503 where that is that the log is lost."""
    path = path_of(entry, changes)
    if entry.method == "POST":
        return browser.send("POST", path, {**FORMS[entry.path], **(changes or {}), "csrf": csrf}, headers)
    if entry.path != "/live":
        return browser.get(path, **headers)
    answer = stream(browser, path, **headers)
    if answer.status != 200:
        return Answer(answer.status, answer.headers, answer.read())
    body = b""
    while b"event: " not in body:
        body += answer.read1(65536)
    answer.close()
    return Answer(503 if b"event: lost" in body else 200, answer.headers, body)


def signed_in(site: ConsoleSite, user: str) -> Browser:
    browser = site.browser()
    site.clock.ahead += 61
    assert browser.sign_in(user).status == 303
    return browser


@pytest.fixture(scope="module")
def reader(site: ConsoleSite) -> Browser:
    return signed_in(site, "console_auditor")


@pytest.fixture(scope="module")
def colleague(site: ConsoleSite) -> Browser:
    return signed_in(site, "console_colleague")


def csrf_of(site: ConsoleSite, user: str) -> str:
    return next(one for one in site.console.sessions.all() if one.user == user).csrf


def test_the_table_of_routes_is_whole(site: ConsoleSite) -> None:
    """Beside the pages the application has the sign-in, the way out and the files, and nothing else."""
    routes = [route for route in site.console.application(PAGES)._app.routes if isinstance(route, Route)]  # type: ignore[attr-defined]
    others = {route.path for route in routes} - {entry.path for entry in PAGES}
    assert others == {"/sign-in", "/sign-out", "/oidc/begin", "/oidc/callback", "/static/{name}"}
    assert len(routes) == len(others) + len(PAGES)
    assert {entry.path for entry in WRITE} == FORMS.keys()


@pytest.mark.parametrize("entry", READ, ids=name_of)
def test_what_is_in_a_filter_is_a_text(reader: Browser, owner: str, entry: Entry) -> None:
    """SQL, markup, a header, a path that climbs, a NUL and broken UTF-8 in each parameter, and the same in all."""
    names = [*dict.fromkeys((*entry.filters, *BESIDE.get(entry.path, ())))]
    tried: list[dict[str, str]] = [{}]
    for text in (SQL, MARKUP + HEADER, CLIMBING, NUL, BROKEN) if names else ():
        tried.append(dict.fromkeys(names, text))
    # Each by itself too, for the first that is refused hides the others. Routes of many filters read them in one place,
    # so that they share them.
    several = [one.path for one in READ if len(one.filters) > 20]
    place = several.index(entry.path) if entry.path in several else None
    for number, name in enumerate(names):
        if place is None or number % len(several) == place:
            tried += [{name: SQL}, {name: MARKUP + HEADER}]
    for changes in tried:
        answer = ask(reader, entry, changes)
        expected = (200, 400, 404) if changes else (200, 404)
        assert answer.status in expected, (changes, answer.body)
        assert not {"fixed"} & set(reader.cookies) and "fixed=1" not in str(answer.headers), changes
        assert b"root:" not in answer.body
        assert answer.status != 200 or (entry.path in FILES) != answer.headers["content-type"].startswith("text/html")
        if answer.headers["content-type"].startswith("text/html"):
            text = answer.text
            assert Tags(text).active == [] and "{0} 49" not in text, changes
        elif answer.status == 200:
            # What a browser would not show as a page.
            assert answer.headers["x-content-type-options"] == "nosniff"
            disposition = answer.headers["content-disposition"]
            assert entry.path == "/live" or re.fullmatch(r'attachment; filename="[\w.-]+"', disposition), changes


def test_nobody_else_is_let_in(site: ConsoleSite, reader: Browser, colleague: Browser, postgres: Backend) -> None:
    """A stranger, a made-up cookie, another site's page, and a form of another session; a page does not take what is a
    form's, nor the other way round."""
    csrf, others, here = csrf_of(site, "console_auditor"), csrf_of(site, "console_colleague"), site.url
    before = [len(recorded(postgres, login)) for login in ("console_auditor", "console_colleague")]
    for entry in PAGES:
        for cookies in ({}, {"secretproxy": "A" * 43}, {"__Host-secretproxy": reader.cookies["secretproxy"]}):
            answer = ask(Browser(site.port, dict(cookies)), entry, csrf=csrf)
            assert (answer.status, answer.body) in ((303, b""), (401, b"signed out")), (entry.path, cookies)
            assert not answer.location.startswith("//"), entry.path
        for site_of in ("same-site", "cross-site", "nonsense"):
            answer = ask(reader, entry, csrf=csrf, **{"Sec-Fetch-Site": site_of})
            assert answer.status == 403 and b"access-" not in answer.body, (entry.path, site_of)
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "GET" if entry.method == "POST" else "POST"):
            assert reader.send(method, path_of(entry), {"csrf": csrf}).status in (403, 405), (entry.path, method)
        if entry.method == "GET":
            continue
        for headers in (
            {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": f"{here}.evil.example"},
            {"Origin": here.replace("http", "https")}, {"Origin": "", "Sec-Fetch-Site": "none"},
        ):  # fmt: skip
            assert ask(reader, entry, csrf=csrf, **headers).status == 403, (entry.path, headers)
        for token in ("", csrf[:-1], csrf + "a", others):
            assert ask(reader, entry, csrf=token).status == 403, entry.path
        assert ask(colleague, entry, csrf=csrf).status == 403, entry.path
    assert [len(recorded(postgres, login)) for login in ("console_auditor", "console_colleague")] == before


@contextmanager
def altered(postgres: Backend, change: str, back: str, login: str) -> Iterator[None]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(change)
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (login,))
        try:
            yield
        finally:
            admin.execute(back)


def again(browser: Browser, entry: Entry, csrf: str) -> None:
    """Waits until a route answers as before."""
    end = time.monotonic() + 30
    while (answer := ask(browser, entry, csrf=csrf)).status not in (200, 303, 404):
        assert time.monotonic() < end, (entry.path, answer.body)


# What a route answers that needs nothing of the log: a note and a report of this session's own verification.
OWN = ("/findings/acknowledge", "/integrity/report")


def test_each_route_says_that_the_log_is_gone_and_comes_back(
    site: ConsoleSite, colleague: Browser, postgres: Backend, owner: str
) -> None:
    """The same for a login that is no auditor any more, which is told what it needs."""
    login = "console_colleague"
    csrf = csrf_of(site, login)
    cases = (
        (f"ALTER ROLE {login} NOLOGIN", f"ALTER ROLE {login} LOGIN", "The log did not answer"),
        (f"REVOKE secretproxy_auditor FROM {login}", f"GRANT secretproxy_auditor TO {login}", "may not read the log"),
    )
    for change, back, said in cases:
        with altered(postgres, change, back, login):
            for entry in PAGES:
                answer = ask(colleague, entry, csrf=csrf)
                if entry.path in OWN:
                    assert answer.status in (200, 303, 404), entry.path
                else:
                    told = said in answer.text or b"event: lost" in answer.body
                    assert answer.status == 503 and told, (entry.path, answer.body)
                assert b"access-" not in answer.body and b"stripe" not in answer.body, entry.path
        for entry in PAGES:
            again(colleague, entry, csrf)


# Pages that show nothing of the log's accesses.
UNRECORDED = ("/integrity", "/doctor")


def test_each_route_says_that_it_cannot_be_recorded_and_comes_back(
    site: ConsoleSite, colleague: Browser, postgres: Backend, owner: str
) -> None:
    csrf = csrf_of(site, "console_colleague")
    with altered(postgres, f"ALTER ROLE {WRITER} NOLOGIN", f"ALTER ROLE {WRITER} LOGIN", WRITER):
        for entry in PAGES:
            answer = ask(colleague, entry, csrf=csrf)
            if entry.path in UNRECORDED:
                assert answer.status == 200, entry.path
                continue
            assert answer.status == 503 and "Not recorded, so not shown" in answer.text, (entry.path, answer.body)
            assert b"access-" not in answer.body, entry.path
    for entry in PAGES:
        again(colleague, entry, csrf)


def test_what_one_reader_verified_is_no_others(site: ConsoleSite, reader: Browser, colleague: Browser) -> None:
    """A session's report, form and way out are its own, and its end ends nobody else's."""
    assert reader.send("POST", "/integrity/verify", {"csrf": csrf_of(site, "console_auditor")}).status == 303
    while 'http-equiv="refresh"' in reader.get("/integrity").text:
        pass
    assert reader.get("/integrity/report").status == 200
    same_person, other = (signed_in(site, user) for user in ("console_auditor", "console_colleague"))
    for browser in (same_person, other):
        assert browser.get("/integrity/report").status == 404
        assert browser.send("POST", "/sign-out", {"csrf": browser.csrf()}).status == 303
    assert reader.get("/integrity/report").status == colleague.get("/accesses").status == 200
