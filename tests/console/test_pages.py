"""Checks that each page of the console shows what the log holds, whole and inert; a download is what is filtered; rows
come by themselves."""

from __future__ import annotations

import asyncio
import calendar
import csv
import html
import html.parser
import http.client
import io
import json
import re
import time
import uuid
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from markupsafe import escape

from secretproxy.audit import forms, review, usual
from secretproxy.audit import reviews as reviews_module
from secretproxy.audit.review import reading
from secretproxy.audit.texts import quoted, safe
from secretproxy.audit.verify import verify_database
from secretproxy.console import view
from tests.conftest import Backend
from tests.console.conftest import APPLICATION, EMOJI, HIDDEN, LONG, MARKUP
from tests.support.cli import secretproxy
from tests.support.console import WRITER, Browser, ConsoleSite
from tests.support.proxy import Proxy


def rows_of(text: str) -> list[str]:
    return re.findall(r'<tr class="access .*?</tr>', text, re.DOTALL)


def test_every_page_that_is_linked_is_there(auditor: Browser, owner: str) -> None:
    """Links are followed from the overview on, as a reader clicks, three steps deep; nothing fails and nothing is a
    dead end."""
    seen: dict[str, int] = {}
    wanted = ["/"]
    for _ in range(3):
        found: list[str] = []
        for path in wanted:
            kind = re.sub(r"[0-9a-f-]{36}", "", path.partition("?")[0]) + "".join(
                sorted(re.findall(r"[?&](\w+)=", path))
            )
            if kind in seen or path.startswith("/static/"):
                continue
            answer = auditor.get(path)
            assert answer.status == 200, (path, answer.body)
            seen[kind] = 1
            if answer.headers["content-type"] == "application/zip":
                continue
            found += [html.unescape(link) for link in re.findall(r'href="(/[^"]*)"', answer.text)]
        wanted = found
    shown = " ".join(seen)
    for part in (
        "/accesses",
        "/findings",
        "/incident",
        "/compare",
        "/integrity",
        "/doctor",
        "/secret",
        "/who/user",
        "/session/",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 13), ({"secret": "stripe"}, 4), ({"operation": "read"}, 6), ({"outcome": "error"}, 1), ({"outcome": "ok,error"}, 13),
        ({"user": "nobody"}, 0), ({"client": "127.0.0.0/8"}, 13), ({"application": APPLICATION}, 12), ({"since": "1h"}, 13), ({"until": "1h"}, 0),
        ({"function": "secrets_verify"}, 1), ({"secret": MARKUP}, 2), ({"secret": HIDDEN}, 2),
    ],
    ids=str,
)  # fmt: skip
def test_a_filter_and_its_downloads_say_the_same(
    auditor: Browser, owner: str, query: dict[str, str], count: int
) -> None:
    query = {"owner": owner, **query}
    shown = rows_of(auditor.get("/accesses", query).text)
    lines = [json.loads(line) for line in auditor.get("/download", {"format": "jsonl", **query}).text.splitlines()]
    table = list(
        csv.DictReader(io.StringIO(auditor.get("/download", {"format": "csv", **query}).body.decode(), newline=""))
    )
    assert len(shown) == len(lines) == len(table) == count
    assert [re.search(r'id="access-([^"]*)"', row)[1] for row in shown] == [line["id"] for line in reversed(lines)]  # type: ignore[index]
    assert [line["id"] for line in lines] == [line["id"] for line in table]


def test_pages_go_on_where_the_one_before_ended(auditor: Browser, postgres: Backend) -> None:
    """Direct calls of one transaction fill three pages: each access once, none left out, whatever comes meanwhile."""
    with psycopg.connect(postgres.dsn("app_user"), autocommit=True) as sql:
        sql.execute(
            "SELECT encrypted_secrets.secrets_getter('c0de3a51-0b6e-4f1c-8d2a-6b1f3a9e7c10', 'n' || n) FROM generate_series(1, 120) n"
        )
        path, seen = "/accesses?owner=c0de3a51-0b6e-4f1c-8d2a-6b1f3a9e7c10", []
        while path:
            text = auditor.get(path).text
            seen.append(re.findall(r'id="access-([^"]*)"', text))
            following = re.search(r'rel="next" href="([^"]*)"', text)
            path = html.unescape(following[1]) if following else ""
            sql.execute("SELECT encrypted_secrets.secrets_getter('c0de3a51-0b6e-4f1c-8d2a-6b1f3a9e7c10', 'later')")
    assert [len(page) for page in seen] == [50, 50, 20]
    assert len({one for page in seen for one in page}) == 120


def test_a_secret_tells_who_used_it(auditor: Browser, owner: str) -> None:
    text = auditor.get("/secret", {"owner": owner, "name": "stripe"}).text
    assert "app_user" in text and "Last written" in text and "not in this log" not in text
    assert "Nobody has used it since" not in text
    assert len(rows_of(text)) == 5
    # Seven days of twenty-four hours in UTC, each access in one of them.
    cells = re.findall(r'<rect class="cell level(\d)"[^>]*><title>(\w+) (\d\d):00: ([\d,]+)</title>', text)
    assert [(day, hour) for _, day, hour, _ in cells] == [
        (day, f"{hour:02d}") for day in calendar.day_abbr for hour in range(24)
    ]
    used = {(day, hour): int(count.replace(",", "")) for _, day, hour, count in cells if count != "0"}
    moments = [datetime.fromisoformat(at) for at in re.findall(r'<time datetime="([^"]*)"', text)]
    assert set(used) <= {(calendar.day_abbr[at.weekday()], f"{at.hour:02d}") for at in moments} and sum(used.values())
    assert all((level == "0") == (count == "0") for level, _, _, count in cells)
    unknown = auditor.get("/secret", {"owner": owner, "name": "no such name"}).text
    assert "not in this log" in unknown and "Nobody, as far as this log goes back." in unknown


def test_writes_are_marked_and_who_still_reads_is_named(auditor: Browser, owner: str, proxy: Proxy) -> None:
    secret = {"owner": owner, "name": "rotated twice"}
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        for _ in range(2):
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'rotated twice', 'value')", (owner,))
            text = auditor.get("/secret", secret).text
            assert "Nobody has used it since it was written last" in text
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'rotated twice')", (owner,))
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'rotated twice')", (owner,))
        text = auditor.get("/secret", secret).text
        said = re.sub("<[^>]*>", "", text[text.index("Read after its last write") :].partition("</p>")[0])
        assert said == "Read after its last write: app_user 2 times."
        assert len(re.findall(r'class="rotation"[^>]*><title>written [\d: -]+ UTC by app_user</title>', text)) == 2
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'rotated twice', 'value')", (owner,))
        sql.execute("SELECT encrypted_secrets.secrets_verify(%s, 'rotated twice', 'value')", (owner,))
    assert "Nobody has read it since it was written last." in auditor.get("/secret", secret).text


def test_a_burst_of_different_secrets_is_drawn(auditor: Browser, proxy: Proxy) -> None:
    made = str(uuid.uuid4())
    with psycopg.connect(proxy.dsn(), autocommit=True, application_name=f"burst {made}") as sql:
        for name in ("a", "b", "a", "c"):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (made, name))
    text = auditor.get("/who/application", {"name": f"burst {made}"}).text
    drawn = text.partition('aria-label="Different secrets used over time, UTC"')[2].partition("</svg>")[0]
    counts = [int(count) for count in re.findall(r": (\d+) secrets</title>", drawn)]
    # At the turn of a step they are in two.
    assert counts == [3] or len(counts) == 2


def test_the_path_of_a_call_is_drawn_and_inert(auditor: Browser, owner: str) -> None:
    row = {"via": [MARKUP, HIDDEN, None], "function": LONG, "event": "attempt"}
    drawn = str(view.environment().get_template("table.html").make_module({}).path_of(row))  # type: ignore[attr-defined]
    steps = re.findall(r"<li[^>]*>(.*?)</li>", drawn)
    assert steps == ["the statement", *map(str, map(view.folded, (MARKUP, HIDDEN, None, LONG)))]
    assert "<script" not in drawn and "\u202e" not in drawn and LONG in drawn


def test_both_sides_of_a_comparison_say_what_they_are(auditor: Browser, owner: str) -> None:
    text = auditor.get("/compare", {"by": "user", "a_since": "14d", "b_since": "7d"}).text
    assert "7.00 days" in text and "14.00 days" in text and "overlap" in text
    text = auditor.get("/compare", {"by": "user", "a_since": "14d", "a_until": "7d", "b_since": "7d"}).text
    assert text.count("7.00 days") == 2 and "overlap" not in text
    text = auditor.get("/compare", {"a_since": "7d", "b_since": "7d", "a_application": "a", "b_application": "b"}).text
    assert "overlap" not in text
    assert [view.rate(value) for value in (0, 0.0312, 3.14159, 1234.5)] == ["0", "0.0312", "3.14", "1,234"]


def test_the_overview_counts_what_is_unusual_and_says_what_is_verified(
    site: ConsoleSite, auditor: Browser, owner: str
) -> None:
    site.clock.ahead += 61
    browser = site.browser()
    assert browser.sign_in("console_colleague").status == 303
    text = browser.get("/").text
    assert "Last row committed" in text and "health.port is not set" in text
    assert "You have not verified this since you signed in" in text
    assert re.search(r"<dt>direct calls</dt><dd>[1-9]", text) and "<dt>forgeries</dt>" in text
    browser.send("POST", "/integrity/verify", {"csrf": browser.csrf()})
    while 'http-equiv="refresh"' in (report := browser.get("/integrity").text):
        pass
    assert "You verified it at" in browser.get("/").text
    # Everybody sees it, also after this process. What other tests did to their log may be damage.
    told = (
        r"All of it is verified up to .*?, by (\w+): nothing was altered in [1-9][\d,]* rows of [1-9]\d* chains, signatures checked\."
        if "Nothing was altered in" in report
        else r"The verification of .*? by (\w+) found [1-9]\d* damages in [1-9][\d,]* rows\."
    )
    end = time.monotonic() + 30
    while not (found := re.search(rf'id="verified">{told} [\d,]+ rows came since', said := auditor.get("/").text)):
        assert time.monotonic() < end, said.partition('id="verified"')[2][:600]
    assert found[1] == "console_colleague"


def test_the_overview_tells_denials_from_other_failures(auditor: Browser, proxy: Proxy, owner: str) -> None:
    def ended() -> dict[str, int]:
        text = auditor.get("/", {"span": "24h"}).text.partition('id="ended">')[2].partition("</dl>")[0]
        found = re.findall(r"<dt>([^<]*)</dt><dd>(?:<a [^>]*>)?([\d,]+)", text)
        return {called: int(number.replace(",", "")) for called, number in found}

    before = ended()
    assert before["other errors"] and before["succeeded"] > 10 and len(before) == 7
    with (
        psycopg.connect(proxy.dsn("auditor"), autocommit=True) as sql,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'stripe')", (owner,))
    after = ended()
    denied = "denials (SQLSTATE 42501)"
    assert after[denied] == before[denied] + 1 and after["other errors"] == before["other errors"]
    page = auditor.get("/", {"span": "24h"}).text
    assert 'aria-label="Accesses by outcome over time, UTC"' in page and 'class="bar denied"' in page
    path = html.unescape(re.search(r'<dt>denials[^/]*</dt><dd><a href="([^"]*)"', page)[1])  # type: ignore[index]
    assert len(rows_of(auditor.get(path).text)) == after[denied]


def test_a_forgery_has_a_likely_cause() -> None:
    assert "another key" in review.forgery_cause({"function": None})
    assert "played back" in review.forgery_cause({"function": "f()"})


def test_a_user_an_application_and_a_client_tell_what_they_used(auditor: Browser, owner: str) -> None:
    for kind, value in (("user", "app_user"), ("application", APPLICATION), ("client", "127.0.0.1")):
        text = auditor.get(f"/who/{kind}", {"name": value}).text
        assert "never before" in text and "stripe" in text, kind


def test_a_session_is_a_story(auditor: Browser, owner: str) -> None:
    text = auditor.get("/accesses", {"owner": owner, "application": APPLICATION}).text
    story = auditor.get(re.search(r'href="(/session/[^"]*)"', text)[1]).text  # type: ignore[index]
    events = re.findall(r'<li class="(\w+)">', story)
    assert events.count("attempt") == events.count("outcome") == 12 - events.count("access")
    drawn = story.partition('aria-label="Statements of this session over time, UTC"')[2].partition("</svg>")[0]
    assert drawn.count('class="shut"') == 12 and drawn.count('class="chain wrong"') == 1
    assert re.search(r"<title>statement \d+: encrypted_secrets.secrets_verify[^<]*, ok</title>", drawn)
    assert "secrets_verify" in story and "error <code>" in story


def incident_archives(auditor: Browser, postgres: Backend, text: str, owner: str, folder: Path) -> None:
    """The page shows what its downloads and the command say, in this order; each archive is proven offline."""
    key = postgres.key_file.with_name("console.pem.pub")
    links = [html.unescape(link) for link in re.findall(r'href="(/incident/download[^"]*)"', text)]
    assert len(links) == 2
    command = ["audit", "incident", "--user", "incident_thief", "--since", "1h", "--dsn", postgres.dsn("auditor")]
    given = secretproxy([*command, "--csv", "--to", str(folder / "given.zip"), "--public-key", str(key)])
    assert given.returncode == 0, given.stderr
    bodies = [auditor.get(link).body for link in links] + [(folder / "given.zip").read_bytes()]
    for number, (body, form) in enumerate(zip(bodies, ("csv", "jsonl", "csv"), strict=True)):
        place = folder / str(number)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            assert archive.testzip() is None
            archive.extractall(place)
        place /= "incident"
        said = (place / f"rotate.{form}").read_text()
        rows: list[Any] = (
            [json.loads(line) for line in said.splitlines()]
            if form == "jsonl"
            else list(csv.DictReader(io.StringIO(said)))
        )
        assert [row["secret"] for row in rows] == ["shared", "own", "rotated"]
        assert [int(row["read"]) for row in rows] == [1, 1, 1] and {row["owner_id"] for row in rows} == {owner}
        assert [bool(row["written_by_another_since"]) for row in rows] == [False, False, True]
        done = secretproxy(["audit", "verify", "--file", str(place / "log.jsonl"), "--public-key", str(key)])
        assert done.returncode == 0 and ("proven: the file is whole" in done.stdout) == (number < 2), done.stdout
        assert 'Login "incident_thief"' in (place / "README.txt").read_text()
        (place / f"rotate.{form}").write_text(said.replace("shared", "Shared"))
        assert secretproxy(["audit", "verify", "--file", str(place / "log.jsonl")]).returncode == 1
    told = [json.loads(line) for line in secretproxy([*command, "--json"]).stdout.splitlines()]
    assert [(one["name"], one["last_writer"]) for one in told] == [
        ("shared", "incident_thief"), ("own", "incident_thief"), ("rotated", "incident_other")
    ]  # fmt: skip


def test_an_incident_names_what_to_rotate_first(
    auditor: Browser, postgres: Backend, proxy: Proxy, tmp_path: Path
) -> None:
    owner = "1c1d7e20-5a4b-4c3d-9e8f-7a6b5c4d3e2f"
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(
            "CREATE ROLE incident_thief LOGIN IN ROLE authenticated; CREATE ROLE incident_other LOGIN IN ROLE authenticated"
        )
    try:
        with psycopg.connect(proxy.dsn(user="incident_thief"), autocommit=True) as thief:
            with psycopg.connect(proxy.dsn(user="incident_other"), autocommit=True) as other:
                for name in ("rotated", "shared", "own"):
                    thief.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'value')", (owner, name))
                    thief.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, name))
                with pytest.raises(psycopg.Error):
                    thief.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'failed', 'value', 'rot13')", (owner,))
                other.execute("SELECT encrypted_secrets.secrets_getter(%s, 'shared')", (owner,))
                other.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'rotated', 'value')", (owner,))
            # What the thief writes is no rotation.
            thief.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'own', 'value')", (owner,))
        text = auditor.get("/incident", {"user": "incident_thief", "since": "1h"}).text
        lines = re.findall(r"<li><a href=[^>]*>([^<]*)</a>(.*?)</li>", text, re.DOTALL)
        assert [name for name, _ in lines] == ["shared", "own", "rotated"]
        assert [bool("not written by another since" in rest) for _, rest in lines] == [True, True, False]
        assert "also used by incident_other" in lines[0][1] and "used by nobody else" in lines[1][1]
        # The thief wrote `own` last, which is said and is no rotation.
        assert [re.search(r"last written .*? by (\w+)", rest)[1] for _, rest in lines] == [  # type: ignore[index]
            "incident_thief", "incident_thief", "incident_other"
        ]  # fmt: skip
        incident_archives(auditor, postgres, text, owner, tmp_path)
        later = auditor.get("/incident", {"user": "incident_thief", "since": "1h", "until": "30m"}).text
        assert "touched no secret in that time" in later
    finally:
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute("DROP ROLE incident_thief, incident_other")


def test_names_are_inert_and_whole(auditor: Browser, owner: str) -> None:
    text = auditor.get("/accesses", {"owner": owner}).text
    for path in ("/", "/findings"):
        text += auditor.get(path).text
    for name in (MARKUP, HIDDEN, EMOJI, LONG):
        text += auditor.get("/secret", {"owner": owner, "name": name}).text
    text += auditor.get("/who/application", {"name": APPLICATION}).text
    assert "<script>alert" not in text and "<img" not in text and "<b onmouseover" not in text
    assert not any(f"{quote}49&" in text for quote in ("'", "&#39;", "&#x27;"))
    assert not {*"\u202e\u200b\u2066\x1b\u2028"} & set(text)
    assert html.escape(MARKUP, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
    assert "pay\\u202egnp.exe\\u200b\\u2066\\x1b[2J\\r\\n\\u2028end" in text
    assert EMOJI in text and LONG in text


NAMES = (
    "plain",
    "a,b",
    "a, b",
    '"a',
    '"a"',
    "",
    " ",
    "a ",
    "?",
    "(null)",
    "\\u202e",
    "a\u00a0b",
    "\u3000",
    "n\u0303",
    "\\",
    "\n",
)


def test_names_are_shown_as_in_the_terminal(auditor: Browser, postgres: Backend, proxy: Proxy) -> None:
    """In a cell of several, in titles and headings, in the filter of a review; no two of them alike."""
    owner = "5e7c0de1-93a4-4c1b-8f7e-2d1c0b9a8f7e"
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        for name in NAMES:
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, name))
    text = auditor.get("/accesses", {"owner": owner}).text
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r'<td class="names">(.*?)</td>', text, re.DOTALL)]
    shown = [html.unescape(cell) for cell in cells][::-1]
    assert shown == [quoted(name) for name in NAMES] and len(set(shown)) == len(NAMES)
    said = secretproxy(["audit", "list", "--owner", owner, "--dsn", postgres.dsn("auditor")]).stdout
    assert all(f" {name} " in said for name in shown)
    for name in NAMES[1:]:
        page = auditor.get("/secret", {"owner": owner, "name": name}) if name else None
        assert page is None or f"<dd>{escape(quoted(name))}</dd>" in page.text
    found = auditor.get("/reviews").text
    assert f"name: {escape(quoted('a, b'))}" in found and f"name: {escape(quoted('(null)'))}" in found


def test_what_is_shortened_is_whole_on_a_click(auditor: Browser, owner: str) -> None:
    for value in (LONG, HIDDEN * 2, MARKUP * 2):
        assert str(view.folded(value)) == (
            f'<details class="cut"><summary>{escape(view.shortened(value))}</summary>{escape(safe(value))}</details>'
        )
    assert view.folded("short") == "short" and view.folded(None) == ""
    long = "x" * 60 + "<b>"
    assert f"<dd>{escape(long)}</dd>" in auditor.get("/who/application", {"name": long}).text


class Tags(html.parser.HTMLParser):
    """The parts of a page that could run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.active: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("style", "iframe", "object", "embed", "base", "img", "foreignobject", "use"):
            self.active.append((tag, "", ""))
        for name, value in attrs:
            leads = name in ("href", "src", "action", "formaction", "data", "xlink:href", "srcset")
            if name.startswith("on") or name == "style" or (leads and not re.match(r"/(?!/)|#|$", value or "")):
                self.active.append((tag, name, value or ""))
        if tag == "script" and attrs != [("src", "/static/console.js"), ("defer", None)]:
            self.active.append((tag, "", ""))


def test_no_page_has_script_or_style_of_its_own(auditor: Browser, owner: str) -> None:
    for path in (
        "/", "/accesses", "/findings", "/incident?user=app_user&since=1h", "/compare?a_since=2h&b_since=1h&by=application", "/integrity",
        "/doctor", "/sign-in", "/who/user?name=app_user", f"/secret?owner={owner}&name=stripe", "/nowhere", "/accesses?since=nonsense",
    ):  # fmt: skip
        assert Tags(auditor.get(path).text).active == [], path
    # The test itself sees what it looks for.
    assert len(Tags(f"<p style=a>{MARKUP}{APPLICATION}<a href=//x>").active) == 7


def test_compare_shows_what_is_new(auditor: Browser, owner: str) -> None:
    text = auditor.get("/compare", {"by": "secret", "a_since": "2h", "a_until": "1h", "b_since": "1h"}).text
    assert '<span class="tag">new</span>' in text and "stripe" in text
    assert auditor.get("/compare", {"by": "nonsense", "a_since": "2h", "b_since": "1h"}).status == 400


def test_compare_shows_rates_and_failures_of_both_sides(auditor: Browser, owner: str) -> None:
    text = auditor.get(
        "/compare", {"a_since": "14d", "a_until": "7d", "b_since": "7d", "b_application": APPLICATION}
    ).text
    sides = text.partition('id="part-sides">')[2].partition("</tbody>")[0]
    rows = {
        re.search(r'scope="row">([^<]*)', row)[1]: re.findall(r'<td class="n">([^<]*)</td>', row)  # type: ignore[index]
        for row in sides.split("<tr>")
        if 'scope="row"' in row
    }
    # As often as modules of tests have filled this log, twelve accesses and one error among them.
    times = int(rows["other errors"][1])
    assert rows["all accesses"][:2] == ["0", f"{12 * times}"] and rows["succeeded"][1] == f"{11 * times}"
    assert times and rows["other errors"][3] == view.rate(times / 7) and rows["other errors"][5] == "8.33 %"
    assert rows["denied (SQLSTATE 42501)"][1] == "0" and len(rows) == 8


def test_the_log_is_verified_from_the_page(auditor: Browser, owner: str, site: ConsoleSite) -> None:
    assert auditor.get("/integrity/report").status == 404
    assert auditor.send("POST", "/integrity/verify", {"csrf": auditor.csrf()}).location == "/integrity"
    while 'http-equiv="refresh"' in (text := auditor.get("/integrity").text):
        pass
    report = json.loads(auditor.get("/integrity/report").body)
    assert (
        ("Nothing was altered" in text) == report["sound"]
        and report["rows"] > 10
        and report["read_as"] == "console_auditor"
    )
    assert site.browser().get("/integrity/report").status == 303


def test_the_doctor_says_what_it_may_not_see(auditor: Browser) -> None:
    text = auditor.get("/doctor").text
    assert 'class="finding"' in text and "console_auditor" in text


def stream(browser: Browser, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=20)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    connection.request("GET", path, headers={"Cookie": cookie, "Accept": "text/event-stream", **headers})
    return connection.getresponse()


def events(answer: http.client.HTTPResponse) -> list[tuple[str, str]]:
    """Gives the next event of a stream, as a list of one; comments are passed over."""
    kind, data = "", []
    while True:
        line = answer.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            data.append(line[6:])
        elif not line and kind:
            return [(kind, "\n".join(data))]


def test_an_access_appears_by_itself_and_none_is_left_out(
    auditor: Browser, proxy: Proxy, site: ConsoleSite, postgres: Backend
) -> None:
    owner = "7a1e9c3b-2d4f-4a6b-8c7d-1e2f3a4b5c6d"
    page = auditor.get("/accesses", {"owner": owner}).text
    source = html.unescape(re.search(r'data-source="([^"]*)"', page)[1])  # type: ignore[index]
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'between')", (owner,))
        live = stream(auditor, source)
        assert live.headers["content-type"].startswith("text/event-stream")
        # What came between the page and its stream.
        assert "between" in events(live)[0][1] and events(live)[0][0] == "there"
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'live')", (owner,))
        kind, row = events(live)[0]
        assert kind == "row" and ">live<" in row and ">ok<" in row
        # The log's server ends the stream's connection: what comes meanwhile is shown all the same.
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'secretproxy console'"
            )
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'after')", (owner,))
        found = [events(live)[0]]
        while found[-1][0] != "row":
            found += events(live)
        assert ">after<" in found[-1][1] and "there" in [kind for kind, _ in found]
    # Whoever only looks on is signed out like everybody.
    site.clock.ahead += 16 * 60
    assert events(live)[0] == ("over", "")


def reviews(postgres: Backend, session: uuid.UUID) -> list[tuple[Any, ...]]:
    """Gives what the log says that a session asked for, in the order of its pages: page, filter, who, from where."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        return sql.execute(
            "SELECT function, via, db_user, application_name, host(client_addr), statement_no, database"
            " FROM secretproxy.access_log WHERE event = 'review' AND session_id = %s ORDER BY statement_no",
            (session,),
        ).fetchall()


def test_whoever_reads_is_recorded_with_the_filter_alone(
    site: ConsoleSite, auditor: Browser, postgres: Backend, owner: str
) -> None:
    """The row is written before the page is shown, in a chain that verifies; twice the same question is two rows."""
    session = next(one for one in site.console.sessions.all() if one.user == "console_auditor")
    asked = {
        "/": ("overview", None),
        "/?span=24h": ("overview", ["span", "24h"]),
        f"/accesses?user=app_user&owner={owner}&nonsense=kept": ("accesses", ["user", "app_user", "owner", owner]),
        "/download?format=jsonl&secret=stripe": ("download", ["format", "jsonl", "secret", "stripe"]),
        f"/secret?name=stripe&owner={owner}": ("secret", ["owner", owner, "name", "stripe"]),
        "/who/user?name=app_user&span=7d": ("who", ["kind", "user", "name", "app_user", "span", "7d"]),
        f"/session/{owner}": ("session", ["session", owner]),
        "/incident?user=app_user&since=1h": ("incident", ["user", "app_user", "since", "1h"]),
        "/findings": ("findings", None),
        "/compare?by=user&a_since=2h&b_since=1h": ("compare", ["by", "user", "a_since", "2h", "b_since", "1h"]),
        "/accesses?since=nonsense": ("accesses", ["since", "nonsense"]),
        # What may be a value is masked as it is in a secret's name.
        "/secret?name=sk_live_51H8x": ("secret", ["name", "masked"]),
        f"/accesses?secret={'n' * 201}": ("accesses", ["secret", "masked"]),
        f"/secret?name={quote(MARKUP)}": ("secret", ["name", MARKUP]),
        f"/secret?name={quote(HIDDEN)}": ("secret", ["name", HIDDEN]),
    }
    for path in asked:
        assert auditor.get(path).status in (200, 400), path
    rows = reviews(postgres, session.id)
    found = [(row[0], row[1] and [re.sub("^masked:[0-9a-f]{32}$", "masked", text) for text in row[1]]) for row in rows]
    assert found == [*asked.values()]
    assert {row[2:5] for row in rows} == {("console_auditor", "secretproxy console", "127.0.0.1")}
    assert [row[5] for row in rows] == [*range(1, len(rows) + 1)] and {row[6] for row in rows} == {"app"}
    # Nobody who reads about a secret has used it.
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        assert sql.execute(
            "SELECT count(*) FROM secretproxy.secret_access WHERE db_user = 'console_auditor'"
        ).fetchone() == (0,)
    report = asyncio.run(verify_database(postgres.dsn("auditor"), [], None, lambda done, total: None))
    assert report.sound and report.rows > len(rows)


async def reviewed_by(postgres: Backend, limit: int) -> reviews_module.Reviewed:
    async with reading(postgres.dsn("auditor")) as connection:
        return await reviews_module.reviewed(connection, limit)


def signed_off(postgres: Backend) -> list[tuple[Any, ...]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        return sql.execute(
            "SELECT db_user, via, fingerprint FROM secretproxy.access_log"
            " WHERE event = 'review' AND function IN ('sign-off', 'acknowledge') ORDER BY at, seq"
        ).fetchall()


def test_the_log_is_signed_off_by_name_and_what_came_since_is_left(
    auditor: Browser, postgres: Backend, proxy: Proxy, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign-off is made in the console and by the command; it sign-off is covered by a checkpoint of its chain, and
    says which rows it is of."""
    monkeypatch.setattr(reviews_module, "SETTLED", timedelta(0))
    before = signed_off(postgres)
    assert ("Nobody has signed this log off" in auditor.get("/reviews").text) == (before == [])
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        query = "SELECT min(at) + (max(at) - min(at)) / 2 FROM secretproxy.access_log WHERE owner_id = %s"
        (up_to,) = sql.execute(query, (owner,)).fetchone()  # type: ignore[misc]
    note = "looked at <b>all</b>;\r\nSet-Cookie: a=b \u202eof it"
    form = {
        "csrf": auditor.csrf(),
        "up_to": up_to.isoformat(),
        "note": note,
        "reviewer": "console_colleague",
        "user": "console_colleague",
    }
    answer = auditor.send("POST", "/reviews/sign-off", form)
    assert answer.location == "/reviews" and "set-cookie" not in answer.headers
    *others, (who, via, digest) = signed_off(postgres)
    assert others == before
    assert who == "console_auditor" and via[::2] == ["up_to", "rows", "chains", "note"]
    assert via[7] == "looked at <b>all</b>; Set-Cookie: a=b \u202eof it" and int(via[3]) > 0 and len(digest) == 64
    text = auditor.get("/reviews").text
    for _ in range(100):
        if "<td>yes</td>" in text:
            break
        text = auditor.get("/reviews").text
    table = text.partition('id="sign-offs"')[2].partition("</table>")[0]
    assert (
        "<td>yes</td>" in table
        and "the same rows" in table
        and "&lt;b&gt;all&lt;/b&gt;" in table
        and "\\u202eof it" in table
    )
    left = int(re.search(r"<b>([\d,]+) rows are left</b>", text)[1].replace(",", ""))  # type: ignore[index]
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'stripe')", (owner,))
    assert (
        f"<b>{left + 1:,} rows" in auditor.get("/reviews").text
        or f"<b>{left + 2:,} rows" in auditor.get("/reviews").text
    )
    # A row of that time which was taken away, or came late, shows.
    assert (
        reviews_module.SignOff.compared(SIGNED, reviews_module.Heads(9, 1, "b"))
        == "1 rows fewer, as where retention removes them: verify the log"
    )
    assert reviews_module.SignOff.compared(SIGNED, reviews_module.Heads(10, 1, "b")) == "other rows: verify the log"
    assert reviews_module.SignOff.compared(SIGNED, reviews_module.Heads(12, 1, "b")) == "2 rows of that time came later"
    # By the command, as the login that reads.
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[audit]\ndsn = "{postgres.dsn(WRITER)}"\nreview_dsn = "{postgres.dsn("auditor")}"\n'
        f'checkpoint_key_file = "{postgres.key_file.with_name("console.pem")}"\n[testimony]\nkey_file = "{postgres.key_file}"\n'
    )
    done = secretproxy(["audit", "review", "--config", str(config), "--up-to", "1h", "--note", "by hand", "--json"])
    found = json.loads(done.stdout)
    assert [(one["reviewer"], one["note"], one["signed"]) for one in found["sign_offs"][:2]] == [
        ("auditor", "by hand", True), ("console_auditor", via[7], True)
    ]  # fmt: skip
    assert [one["digest"] == digest for one in found["sign_offs"][:2]] == [False, True] and found["left"]["attempt"] > 0
    assert found["up_to"] == up_to.isoformat() and {one["now"] for one in found["sign_offs"][:2]} == {"the same rows"}
    # Which is newest, and which are shown, does not decide how far it is signed off.
    state = asyncio.run(reviewed_by(postgres, 1))
    assert [one.note for one, _ in state.sign_offs] == ["by hand"] and state.up_to == up_to
    shown = secretproxy(["audit", "review", "--config", str(config)])
    # For programs and in a pipe every sign-off; where --limit cuts, the last line says how many more there are.
    whole = json.loads(secretproxy(["audit", "review", "--config", str(config), "--json"]).stdout)["sign_offs"]
    assert len(whole) == len([row for row in signed_off(postgres) if "up_to" in row[1]]) > 1
    cut = secretproxy(["audit", "review", "--config", str(config), "--limit", "1"])
    assert len(cut.stdout.splitlines()) == 1
    assert f"1 newest sign-offs are shown, {len(whole) - 1} more: --limit 0 shows all" in cut.stderr
    assert "by hand" in shown.stdout and "not signed off, since" in shown.stderr
    for wrong in (
        ["--up-to", "now", "--note", "x"],
        ["--up-to", "1h"],
        ["--note", "x"],
        ["--up-to", "1h", "--note", "sk_live_51H8x"],
    ):
        assert secretproxy(["audit", "review", "--config", str(config), *wrong]).returncode == 2
    assert len(signed_off(postgres)) == len(before) + 2


SIGNED = reviews_module.SignOff(
    datetime.now(UTC), "a", datetime.now(UTC), "", reviews_module.Heads(10, 1, "a"), uuid.uuid4(), 1
)


def test_a_finding_is_acknowledged_and_its_note_is_kept(auditor: Browser, postgres: Backend, owner: str) -> None:
    before = len(signed_off(postgres))
    text = auditor.get("/findings").text
    forms = re.findall(r'name="kind" value="([^"]*)"><input type="hidden" name="finding" value="([0-9a-f]{32})"', text)
    assert {kind for kind, _ in forms} >= {"direct", "first use"} and len({finding for _, finding in forms}) == len(
        forms
    )
    kind, finding = next(one for one in forms if one[0] == "direct")
    form = {"csrf": auditor.csrf(), "kind": kind, "finding": finding, "span": "7d", "note": f"known: {MARKUP}"}
    assert auditor.send("POST", "/findings/acknowledge", form).location == "/findings?span=7d"
    after = auditor.get("/findings").text
    assert (
        f'value="{finding}"' not in after
        and html.escape(f"console_auditor: known: {MARKUP}").replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
        in after
    )
    assert after.count('name="finding"') == len(forms) - 1
    assert signed_off(postgres)[-1][:2] == ("console_auditor", ["finding", "direct", "note", f"known: {MARKUP}"])
    for wrong in (
        {"kind": "nonsense"},
        {"finding": "x"},
        {"note": ""},
        {"note": " "},
        {"note": "n" * 201},
        {"note": "ghp_abcdef"},
        {"span": "x"},
    ):
        assert auditor.send("POST", "/findings/acknowledge", form | wrong).status == 400, wrong
    assert len(signed_off(postgres)) == before + 1


def test_what_is_unusual_is_so_for_that_login(auditor: Browser, postgres: Backend) -> None:
    """A job that reads sixty secrets every night is not unusual; a person's five, and their hour at night, are."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        made = (
            "INSERT INTO secretproxy.access_log (at, event, function, operation, owner_id, secret_names, db_user)"
            " SELECT date_trunc('day', now(), 'UTC') - make_interval(days => day, mins => -minute), 'direct', 'f()', 'read', %s, ARRAY['n' || n], %s"
            " FROM unnest(%s::int[]) AS day, generate_series(1, %s) AS n, unnest(%s::int[]) AS minute"
        )
        before = [*range(12, 19)]
        for user, days, secrets, minutes in (
            ("nightly_job", [*before, 1], 60, [130]), ("usual_person", before, 2, [600, 625]), ("usual_person", [1], 5, [600]),
            ("usual_person", [1], 1, [180, 182, 550]), ("steady_person", [*before, 1], 5, [1439, 0]), ("new_person", [1], 9, [240]),
            ("new_reader", [1], 10, [240]), ("rare_person", [12, 13, 14, 15], 1, [600]), ("rare_person", [1], 1, [180]),
        ):  # fmt: skip
            sql.execute(made, (uuid.uuid4(), user, days, secrets, minutes))
    text = auditor.get("/findings", {"span": "7d"}).text

    def found(table: str) -> list[list[str]]:
        body = text.partition(f'<table id="{table}">')[2].partition("</table>")[0]
        rows = [
            re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
            for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)[1:]
        ]
        return [[re.sub("<[^>]*>", "", cell).strip() for cell in row] for row in rows]

    bursts = {row[2]: row[3:5] for row in found("bursts")}
    assert bursts["usual_person"] == ["5", "2"] and bursts["new_reader"] == ["10", "not known"]
    assert not {"nightly_job", "steady_person", "new_person", "rare_person"} & set(bursts)
    hours = {row[2]: (row[0][11:16], row[3], row[4]) for row in found("hours")}
    assert hours["usual_person"] == ("03:00", "2", "10")
    assert not {"nightly_job", "steady_person", "new_person", "new_reader", "rare_person"} & set(hours)


def test_usual_hours_are_a_circle_and_need_days() -> None:
    start = datetime(2026, 3, 2, tzinfo=UTC)

    def used(*hours: int, days: int = 5) -> list[usual.Hour]:
        times = [start + timedelta(days=day, hours=hour) for day in range(days) for hour in hours]
        return [usual.Hour("a", at, at, 1) for at in times]

    since = start + timedelta(days=10)

    def unusual(past: list[usual.Hour], hour: int) -> bool:
        at = since + timedelta(hours=hour)
        return bool(usual.unusual_hours([*past, usual.Hour("a", at, at, 1)], since))

    assert [hour for hour in range(24) if not unusual(used(23), hour)] == [0, 22, 23]
    assert [hour for hour in range(24) if not unusual(used(9, 17), hour)] == [8, 9, 10, 16, 17, 18]
    assert not any(unusual(used(9, days=4), hour) for hour in range(24))


@pytest.mark.skipif(not forms.has_parquet(), reason="pyarrow is not installed")
def test_parquet_has_what_json_lines_have(auditor: Browser, owner: str) -> None:
    import pyarrow.parquet as parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    assert "format=parquet" in auditor.get("/accesses").text
    answer = auditor.get("/download", {"format": "parquet", "owner": owner, "outcome": "ok,error"})
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert re.fullmatch(r'attachment; filename="accesses-\w+\.parquet"', answer.headers["content-disposition"])
    rows = parquet.read_table(io.BytesIO(answer.body)).to_pylist()
    lines = auditor.get("/download", {"format": "jsonl", "owner": owner, "outcome": "ok,error"}).text.splitlines()
    assert [plain(row) for row in rows] == [plain(json.loads(line)) for line in lines] and len(rows) >= 13
    # Nothing is a file too.
    empty = auditor.get("/download", {"format": "parquet", "user": "nobody at all"})
    assert len(parquet.read_table(io.BytesIO(empty.body))) == 0


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its time as a text, as JSON has it."""
    at = row["at"]
    return row | {"at": at if isinstance(at, str) else at.isoformat()}


def test_where_pyarrow_is_missing_the_console_says_so(auditor: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda name: None)
    assert "format=parquet" not in auditor.get("/accesses").text
    for path in ("/download", "/export"):
        answer = auditor.get(path, {"format": "parquet"})
        assert answer.status == 400 and "secretproxy[parquet]" in answer.text


@pytest.mark.parametrize(
    "query",
    [
        {"outcome": "error"},
        {"outcome": "ok", "operation": "read"},
        {"sqlstate": "22023"},
        {"calls": "1", "how": "access"},
    ],
    ids=str,
)
def test_a_download_by_outcome_is_proven_too(
    auditor: Browser, postgres: Backend, owner: str, tmp_path: Path, query: dict[str, str]
) -> None:
    """It has the accesses that the page shows, each with its outcome; the proof says what it does not prove."""
    answer = auditor.get("/export", {"format": "jsonl", "owner": owner, **query})
    name = answer.headers["content-disposition"].partition('filename="')[2].rstrip('"')[:-4]
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        archive.extractall(tmp_path)
    rows, key = tmp_path / name, postgres.key_file.with_name("console.pem.pub")
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    shown = rows_of(auditor.get("/accesses", {"owner": owner, **query}).text)
    ids = {re.search(r'id="access-([^"]*)"', row)[1] for row in shown}  # type: ignore[index]
    assert {line["id"] for line in lines if line["event"] != "outcome"} == ids and ids
    done = secretproxy(["audit", "verify", "--file", str(rows), "--public-key", str(key)])
    assert done.returncode == 0 and f"each of the {len(ids)} accesses in the file matches" in done.stdout, done.stdout
    assert "proven: the file is whole" in done.stdout and "not proven: that no other access matched" in done.stdout
    manifest = json.loads((tmp_path / f"{name}.manifest.json").read_text())
    assert manifest["filters"] == {"owner": owner, **query} and manifest["signature"]


@pytest.mark.parametrize("form", ["jsonl", "csv", *(["parquet"] if forms.has_parquet() else [])])
def test_a_download_with_proof_is_verified_offline(
    auditor: Browser, site: ConsoleSite, postgres: Backend, owner: str, tmp_path: Path, form: str
) -> None:
    """The zip has what `audit export` writes: rows and a signed manifest; a changed or missing row shows."""
    answer = auditor.get("/export", {"format": form, "owner": owner, "operation": "read"})
    name = answer.headers["content-disposition"].partition('filename="')[2].rstrip('"')
    assert answer.status == 200 and name.endswith(f".{form}.zip")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None and archive.namelist() == [name[:-4], f"{name[:-4]}.manifest.json"]
        archive.extractall(tmp_path)
    rows, key = tmp_path / name[:-4], postgres.key_file.with_name("console.pem.pub")
    verify = ["audit", "verify", "--file", str(rows), "--public-key", str(key)]
    done = secretproxy(verify)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / f"{name[:-4]}.manifest.json").read_text())
    assert manifest["filters"] == {"owner": owner, "operation": "read"} and manifest["signature"]
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        query = "SELECT count(*) FROM secretproxy.access_log WHERE owner_id = %s AND operation = 'read'"
        assert sql.execute(query, (owner,)).fetchone() == (manifest["rows"],)
    text = rows.read_bytes()
    for wrong in (text.replace(b"app_user", b"somebody", 1), b"\n".join(text.split(b"\n")[:-2]) + b"\n"):
        rows.write_bytes(wrong)
        assert secretproxy(verify).returncode != 0
    assert auditor.get("/export", {"format": "zip"}).status == 400
    assert auditor.get("/export", {"since": "nonsense"}).status == 400
