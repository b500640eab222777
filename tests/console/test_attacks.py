"""Tries what an attacker tries on the console: each is refused, whoever tries it."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest

from secretproxy.config import ConfigError, Settings, load_settings
from secretproxy.console.pages import PAGES
from secretproxy.console.query import FIELDS as FILTERS
from secretproxy.console.serve import server_of
from secretproxy.demo.postgres import free_port
from tests.conftest import Backend
from tests.support.certificates import Authority
from tests.support.console import PASSWORD, WRITER, Browser, ConsoleSite, running

INJECTIONS = (
    "' OR '1'='1",
    "'; DROP TABLE secretproxy.access_log; --",
    "$1",
    "?",
    "\\'; SELECT pg_sleep(9); --",
    "%s{0}",
    "a\0b",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)
FIELDS = (*FILTERS, "since", "until", "before")


@pytest.mark.parametrize("field", FIELDS)
def test_sql_in_a_filter_is_a_text_like_any_other(auditor: Browser, owner: str, field: str) -> None:
    for text in INJECTIONS:
        for path in ("/accesses", "/download", "/export"):
            answer = auditor.get(path, {field: text})
            assert answer.status in (200, 400), (field, text, answer.body)
            assert answer.status == 400 or b"access-" not in answer.body
    assert "access-" in auditor.get("/accesses", {"owner": owner}).text


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00", "999999w", "-1d", "99999-01-01"]
)
def test_times_at_the_ends_of_the_calendar(auditor: Browser, time: str) -> None:
    for query in (
        {"since": time},
        {"until": time},
        {"since": time, "outcome": "ok"},
        {"before": f"{time[:19]}.000000_1_" + "0" * 36},
    ):
        assert auditor.get("/accesses", query).status in (200, 400)
    assert auditor.get("/incident", {"user": "a", "since": time}).status in (200, 400)


# --- signing in ------------------------------------------------------------------------------------------------------


def test_nothing_is_shown_to_who_is_not_signed_in(site: ConsoleSite) -> None:
    stranger = site.browser()
    for method, path, *_ in PAGES:
        path = path.replace("{kind}", "user").replace("{session}", "0")
        answer = stranger.send(method, path, {} if method == "POST" else None)
        assert (answer.status, answer.body) in ((303, b""), (401, b"signed out")), path
    assert stranger.get("/", Cookie="secretproxy=" + "A" * 43).status == 303


@pytest.mark.parametrize(
    ("user", "password", "status", "said"),
    [
        ("console_auditor", "wrong", 403, "name or password is wrong"), ("no_such_login", PASSWORD, 403, "name or password is wrong"),
        ("console_outsider", PASSWORD, 403, "GRANT secretproxy_auditor"), ("console_auditor", "", 400, "Give the name"), ("", PASSWORD, 400, "Give the name"),
        ("console_auditor\0", PASSWORD, 400, "Give the name"), ("x" * 64, PASSWORD, 400, "Give the name"),
        # A login that the server lets in without looking at the password.
        ("auditor", PASSWORD, 403, "with any password"), ("postgres", "x", 403, "with any password"),
    ],
)  # fmt: skip
def test_who_does_not_get_in(site: ConsoleSite, user: str, password: str, status: int, said: str) -> None:
    site.clock.ahead += 61
    browser = site.browser()
    answer = browser.sign_in(user, password)
    if user == "no_such_login":
        # The test's server asks nobody for a password of whom it has no rule.
        assert answer.status in (403, 503)
    else:
        assert answer.status == status and said in answer.text
    assert not browser.cookies
    assert PASSWORD not in answer.text and "127.0.0.1:" not in answer.text.replace(f"127.0.0.1:{site.port}", "")
    assert browser.get("/accesses").status == 303


def test_a_password_of_the_process_is_nobodys(
    site: ConsoleSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody gets in by what libpq would take from the environment or a file."""
    site.clock.ahead += 61
    kept = tmp_path / "pgpass"
    kept.write_text(f"*:*:*:*:{PASSWORD}\n")
    kept.chmod(0o600)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGPASSFILE", str(kept))
    assert site.browser().sign_in("console_auditor", "").status == 400
    assert site.browser().sign_in("console_auditor", "wrong").status == 403


def test_failures_are_throttled_even_all_at_once(site: ConsoleSite) -> None:
    site.clock.ahead += 61
    found: list[int] = []

    def attempt() -> None:
        found.append(site.browser().sign_in("console_auditor", "wrong").status)

    threads = [threading.Thread(target=attempt) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [403] * 10 + [429] * 5
    assert site.browser().sign_in().status == 429
    site.clock.ahead += 61
    assert site.browser().sign_in().status == 303


def test_a_session_ends_when_idle_and_in_any_case(site: ConsoleSite) -> None:
    site.clock.ahead += 61
    idle, busy = site.browser(), site.browser()
    assert idle.sign_in().status == busy.sign_in("console_colleague").status == 303
    site.clock.ahead += 14 * 60
    assert busy.get("/integrity").status == 200
    site.clock.ahead += 2 * 60
    assert idle.get("/integrity?x=%0d%0ay").location == "/sign-in?to=%2Fintegrity%3Fx%3D%250d%250ay"
    for _ in range(40):
        assert busy.get("/incident").status in (200, 303)
        site.clock.ahead += 12 * 60
    assert busy.get("/incident").status == 303


def test_a_session_that_is_over_has_no_connection(site: ConsoleSite, postgres: Backend) -> None:
    browser = site.browser()
    site.clock.ahead += 61
    assert browser.sign_in("console_colleague").status == 303 and browser.get("/integrity").status == 200
    count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'console_colleague'"
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        assert admin.execute(count).fetchone() == (1,)
        assert browser.send("POST", "/sign-out", {"csrf": browser.csrf()}).location == "/sign-in"
        until = time.monotonic() + 10
        while admin.execute(count).fetchone() != (0,):
            assert time.monotonic() < until


def test_who_loses_the_right_reads_nothing_more(site: ConsoleSite, postgres: Backend) -> None:
    browser = site.browser()
    site.clock.ahead += 61
    assert browser.sign_in("console_colleague").status == 303 and browser.get("/accesses").status == 200
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("REVOKE secretproxy_auditor FROM console_colleague")
        try:
            answer = browser.get("/accesses")
            assert answer.status == 503 and "may not read the log" in answer.text and "access-" not in answer.text
        finally:
            admin.execute("GRANT secretproxy_auditor TO console_colleague")
    assert browser.get("/accesses").status == 200


def test_a_log_that_is_away_is_said_so_and_comes_back(site: ConsoleSite, postgres: Backend) -> None:
    browser = site.browser()
    site.clock.ahead += 61
    assert browser.sign_in("console_colleague").status == 303
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("ALTER ROLE console_colleague NOLOGIN")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'console_colleague'")
        try:
            for path in (
                "/",
                "/accesses",
                "/findings",
                "/integrity",
                "/secret?name=a",
                "/who/user?name=a",
                "/incident?user=a&since=1h",
                "/live?known=2026-11-24",
            ):
                answer = browser.get(path)
                assert answer.status == 503 and "The log did not answer" in answer.text, path
                assert browser.get("/incident").status == 200
        finally:
            admin.execute("ALTER ROLE console_colleague LOGIN")
    assert browser.get("/accesses").status == 200


def test_a_stranger_is_told_nothing_of_the_servers(postgres: Backend) -> None:
    with running("postgresql://nobody@127.0.0.1:1/elsewhere", Settings()) as away:
        answer = away.browser().sign_in()
        assert answer.status == 503 and "cannot be read now" in answer.text
        assert (
            "elsewhere" not in answer.text
            and "127.0.0.1:1/" not in answer.text
            and "refused" not in answer.text.lower()
        )


# --- the browser ------------------------------------------------------------------------------------------------------


def test_a_cookie_from_before_signing_in_is_none_after(site: ConsoleSite) -> None:
    site.clock.ahead += 61
    browser = site.browser()
    browser.cookies["secretproxy"] = "fixed-by-an-attacker-fixed-by-an-attacker-1"
    answer = browser.sign_in()
    assert browser.cookies["secretproxy"] != "fixed-by-an-attacker-fixed-by-an-attacker-1"
    for part in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert part in answer.headers["set-cookie"]
    first = dict(browser.cookies)
    assert browser.sign_in().status == 303 and browser.cookies != first
    assert Browser(site.port, first).get("/").status == 303


def test_a_form_of_another_site_does_nothing(site: ConsoleSite, auditor: Browser) -> None:
    csrf, here = auditor.csrf(), f"http://127.0.0.1:{site.port}"
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": here, "Sec-Fetch-Site": "cross-site"},
        {"Origin": here, "Sec-Fetch-Site": "same-site"}, {"Origin": here.replace("http", "https")}, {"Origin": f"{here}.evil.example"},
        {"Origin": "", "Sec-Fetch-Site": "none"},
    ):  # fmt: skip
        for path in ("/sign-out", "/integrity/verify", "/sign-in"):
            assert (
                auditor.send(
                    "POST", path, {"csrf": csrf, "user": "console_auditor", "password": PASSWORD}, headers
                ).status
                == 403
            )
    for token in ("", "x", csrf[:-1], csrf + "a"):
        assert auditor.send("POST", "/sign-out", {"csrf": token}).status == 403
    assert auditor.get("/sign-out").status == 405 and auditor.get("/integrity/verify").status == 405
    assert auditor.get("/incident").status == 200


def test_one_persons_token_is_no_others(site: ConsoleSite, auditor: Browser) -> None:
    colleague = site.browser()
    site.clock.ahead += 61
    assert colleague.sign_in("console_colleague").status == 303
    assert colleague.send("POST", "/sign-out", {"csrf": auditor.csrf()}).status == 403
    assert colleague.send("POST", "/integrity/verify", {"csrf": auditor.csrf()}).status == 403
    assert "console_colleague" in colleague.get("/incident").text and "console_auditor" in auditor.get("/incident").text
    assert colleague.send("POST", "/sign-out", {"csrf": colleague.csrf()}).status == 303
    assert auditor.get("/incident").status == 200


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "/x\r\nSet-Cookie: a=b", "\\\\evil", "javascript:alert(1)", "/x\u2028y"]
)  # fmt: skip
def test_signing_in_leads_nowhere_else(site: ConsoleSite, to: str) -> None:
    site.clock.ahead += 61
    answer = site.browser().sign_in(to=to)
    assert answer.status == 303 and answer.location.startswith("/") and "evil" not in answer.location
    assert "a=b" not in str(answer.headers.get_all("set-cookie"))


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..%5capp.py", "/static//etc/passwd", "/static/%00", "/static/console.css%00.py", "/static/", "/../templates/base.html"],
)  # fmt: skip
def test_no_other_file_is_served(site: ConsoleSite, path: str) -> None:
    answer = site.browser().get(path)
    assert answer.status == 404 and "import" not in answer.text and "root:" not in answer.text


def test_every_answer_forbids_what_is_not_the_consoles(site: ConsoleSite, auditor: Browser) -> None:
    stranger = site.browser()
    answers = [
        auditor.get("/incident"), auditor.get("/accesses?since=nonsense"), auditor.get("/nowhere"), stranger.get("/"), stranger.get("/sign-in"),
        stranger.get("/static/console.js"), stranger.send("POST", "/sign-in", {}, {"Origin": "null"}), stranger.send("DELETE", "/sign-in"), auditor.get("/live"),
        auditor.get("/download?since=1s"),
    ]  # fmt: skip
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


def test_another_name_for_this_machine_is_not_answered(site: ConsoleSite) -> None:
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1.evil.example", "", "localhost@evil.example"):
        assert site.browser().get("/sign-in", Host=host or "x").status == 403
    assert site.browser().get("/sign-in", Host=f"localhost:{site.port}").status == 200


def test_a_long_body_is_refused(site: ConsoleSite) -> None:
    assert site.browser().send("POST", "/sign-in", {"user": "x" * 70_000, "password": "y"}).status == 403


# --- what is recorded of readers --------------------------------------------------------------------------------------


def recorded(postgres: Backend, login: str) -> list[tuple[str, list[str] | None]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        query = (
            "SELECT function, via FROM secretproxy.access_log WHERE event = 'review' AND db_user = %s ORDER BY at, seq"
        )
        return sql.execute(query, (login,)).fetchall()


def test_what_cannot_be_recorded_is_not_shown(
    site: ConsoleSite, auditor: Browser, postgres: Backend, owner: str
) -> None:
    """Each page that is recorded says that it cannot be shown; the others and the way out go on, and everything comes
    back by itself."""
    form = {"csrf": auditor.csrf(), "kind": "direct", "finding": "0" * 32, "note": "x", "span": "7d", "up_to": "1h"}
    before = recorded(postgres, "console_auditor")
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(f"ALTER ROLE {WRITER} NOLOGIN")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (WRITER,))
        try:
            for entry in PAGES:
                path = (
                    entry.path.replace("{kind}", "user").replace("{session}", owner)
                    + f"?name=stripe&owner={owner}&since=1h"
                )
                answer = auditor.send(entry.method, path, form if entry.method == "POST" else None)
                if entry.asked is None and entry.method == "GET":
                    assert answer.status == 200, path
                else:
                    assert answer.status == 503 and "Not recorded, so not shown" in answer.text, (path, answer.text)
                    assert "access-" not in answer.text and "stripe" not in answer.text.replace("name=stripe", "")
                    assert "audit.dsn" in answer.text
        finally:
            admin.execute(f"ALTER ROLE {WRITER} LOGIN")
    until = time.monotonic() + 20
    while auditor.get("/accesses", {"owner": owner}).status != 200:
        assert time.monotonic() < until
    # What was refused is not said to have been read but for the one question that found the log away.
    assert len(recorded(postgres, "console_auditor")) <= len(before) + 2


@pytest.mark.parametrize("login", ["console_auditor", "console_outsider", "app_user"])
def test_no_login_of_a_reader_writes_a_review(site: ConsoleSite, postgres: Backend, login: str) -> None:
    """Nobody writes a row in another's name or takes away their own: the log is written by the console's login
    alone."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute(f"SET SESSION AUTHORIZATION {login}")
        for statement in (
            "INSERT INTO secretproxy.access_log (event, db_user) VALUES ('review', 'console_colleague')",
            "INSERT INTO secretproxy.reviews (reviewer) VALUES ('console_colleague')",
            "UPDATE secretproxy.access_log SET db_user = 'console_colleague' WHERE event = 'review'",
            "DELETE FROM secretproxy.access_log WHERE event = 'review'",
            "DELETE FROM secretproxy.reviews",
            "SET ROLE secretproxy_writer",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(statement)


def test_a_review_says_nothing_that_the_reader_made_up(site: ConsoleSite, auditor: Browser, postgres: Backend) -> None:
    """The console fills in who asks, from where and in which session; a filter is one text, whatever stands in it."""
    texts = (
        "x\tconsole_colleague",
        'a","user","b',
        "{a,b}",
        "x\ny",
        "\\N",
        "NULL",
        "\\.",
        "masked:0000",
        "x\r\nSet-Cookie: a=b",
    )
    for text in texts:
        answer = auditor.get(
            "/accesses", {"user": text, "reviewer": "console_colleague", "db_user": "console_colleague", "client_addr": "192.0.2.1"},
            **{"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Remote-User": "console_colleague"},
        )  # fmt: skip
        assert answer.status == 200 and "set-cookie" not in answer.headers
    query = (
        "SELECT via, db_user, host(client_addr), application_name, session_id FROM secretproxy.access_log"
        " WHERE event = 'review' ORDER BY at DESC, seq DESC LIMIT %s"
    )
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        rows = sql.execute(query, (len(texts),)).fetchall()[::-1]
    assert [row[0] for row in rows] == [
        ["user", f"name:{text}" if text.startswith("masked:") else text] for text in texts
    ]
    assert {row[1:4] for row in rows} == {("console_auditor", "127.0.0.1", "secretproxy console")}
    assert len({row[4] for row in rows}) == 1


def test_another_sites_page_makes_nobody_a_reader(site: ConsoleSite, auditor: Browser, postgres: Backend) -> None:
    """An attacker has a link or a form elsewhere, also on another port of this machine, whose requests carry the
    cookie."""
    csrf = auditor.csrf()
    before = recorded(postgres, "console_auditor")
    for site_of in ("same-site", "cross-site", "nonsense"):
        for path in ("/accesses?user=victim", "/download?format=csv", "/live?known=2026-11-24", "/secret?name=stripe"):
            answer = auditor.get(path, **{"Sec-Fetch-Site": site_of})
            assert (
                answer.status == 403 and "Nothing was shown or recorded" in answer.text and "access-" not in answer.text
            )
    for token in ("", csrf[:-1]):
        assert auditor.send("POST", "/integrity/verify", {"csrf": token}).status == 403
    assert site.browser().get("/accesses?user=stranger").status == 303
    assert recorded(postgres, "console_auditor") == before
    assert auditor.get("/accesses?user=victim", **{"Sec-Fetch-Site": "same-origin"}).status == 200
    assert recorded(postgres, "console_auditor") == [*before, ("accesses", ["user", "victim"])]


def test_nobody_signs_in_anothers_name(site: ConsoleSite, auditor: Browser, postgres: Backend) -> None:
    """Nobody signs off by a form of another site, another person's token, a field or a header of the form; nor ahead of
    time, nor without a note."""
    colleague = site.browser()
    site.clock.ahead += 61
    assert colleague.sign_in("console_colleague").status == 303
    csrf, here = auditor.csrf(), f"http://127.0.0.1:{site.port}"
    form = {
        "csrf": csrf,
        "up_to": "1h",
        "note": "all is well",
        "user": "console_colleague",
        "reviewer": "console_colleague",
    }
    known = {"csrf": csrf, "kind": "direct", "finding": "0" * 32, "note": "all is well", "span": "7d"}
    before = [recorded(postgres, login) for login in ("console_colleague", "console_auditor")]
    for path, given in (("/reviews/sign-off", form), ("/findings/acknowledge", known)):
        assert colleague.send("POST", path, given).status == 403
        assert site.browser().send("POST", path, given).status == 303
        assert auditor.send("POST", path, given | {"csrf": ""}).status == 403
        assert auditor.get(path, given).status == 405
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": here, "Sec-Fetch-Site": "same-site"},
            {"Origin": "null"},
        ):
            assert auditor.send("POST", path, given, headers).status == 403
        for wrong in (
            {"up_to": "now"},
            {"up_to": "9999-01-01"},
            {"up_to": "x\0"},
            {"up_to": ""},
            {"note": ""},
            {"note": "sk_live_x"},
        ):
            if path == "/reviews/sign-off" or "note" in wrong:
                assert auditor.send("POST", path, given | wrong).status == 400, wrong
    assert [recorded(postgres, login) for login in ("console_colleague", "console_auditor")] == before
    assert auditor.send("POST", "/reviews/sign-off", form, {"X-Remote-User": "console_colleague"}).status == 303
    assert recorded(postgres, "console_colleague") == before[0]
    assert recorded(postgres, "console_auditor")[-1][0] == "sign-off"


# --- where it listens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "192.168.1.1"])
def test_it_is_not_reached_from_elsewhere_without_tls(postgres: Backend, host: str) -> None:
    with pytest.raises(ConfigError, match="without TLS"):
        server_of(postgres.dsn(), Settings(), None, host, 6480)


def test_the_command_serves_until_it_is_told_to_end(postgres: Backend, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "secretproxy", "console", "--dsn", postgres.dsn("nobody"), "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"the console is at http://127.0.0.1:{port}/\n"
            answer = Browser(port).get("/sign-in")
            assert answer.status == 200 and "secretproxy_auditor" in answer.text
            taken = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
            assert taken.returncode == 2 and "cannot listen on 127.0.0.1" in taken.stderr
        finally:
            process.terminate()
        process.wait(20)


def test_tls_makes_the_cookie_secure(postgres: Backend, site: ConsoleSite, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.pair("server")
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[listen]\ntls = "allow"\ntls_cert = "{cert}"\ntls_key = "{key}"\n[testimony]\nkey_file = "{postgres.key_file}"\n'
    )
    port = free_port()
    server, url = server_of(postgres.dsn(), load_settings(config), config, "127.0.0.1", port)
    assert url == f"https://127.0.0.1:{port}/"
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        context = ssl.create_default_context(cafile=str(authority.file))
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        headers = {"Origin": f"https://127.0.0.1:{port}", "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/sign-in", urlencode({"user": "console_auditor", "password": PASSWORD}), headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 303 and answer.headers["strict-transport-security"]
        assert (
            answer.headers["set-cookie"].startswith("__Host-secretproxy=") and "Secure" in answer.headers["set-cookie"]
        )
    finally:
        server.should_exit = True
        thread.join(60)
