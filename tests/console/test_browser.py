"""Checks the console in a real browser: nothing is blocked or fails, rows come within a second, a download is what the
page shows, who is turned away is told why, pages fit a telephone, keys work."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from secretproxy.audit.texts import quoted
from tests.conftest import Backend
from tests.console.conftest import EMOJI, HIDDEN, LONG, MARKUP
from tests.support.cli import secretproxy
from tests.support.console import PASSWORD, ConsoleSite
from tests.support.node import node_modules
from tests.support.proxy import Proxy

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -r requirements/browser.lock"
)
CHROMIUM = os.environ.get("TEST_CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found: apt-get install chromium, or set TEST_CHROMIUM"
)
PAGES = (
    "/",
    "/accesses",
    "/findings",
    "/incident?user=app_user&since=1h",
    "/compare?a_since=2h&b_since=1h",
    "/integrity",
    "/reviews",
    "/doctor",
    "/who/user?name=app_user",
)


class Person:
    """A browser's page, and what it complained of."""

    def __init__(self, page: Any, site: ConsoleSite) -> None:
        self.page = page
        self.site = site
        self.complaints: list[str] = []
        page.on(
            "console",
            lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) =>"
            " console.error('forbidden by the policy: ' + event.violatedDirective))"
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))

    def open(self, path: str) -> None:
        self.page.goto(self.site.url + path)

    def sign_in(self, password: str = PASSWORD, user: str = "console_auditor") -> None:
        self.page.fill("[name=user]", user)
        self.page.fill("[name=password]", password)
        with self.page.expect_navigation(wait_until="load"):
            self.page.click("button:has-text('Sign in')")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def person(chromium: Any, site: ConsoleSite) -> Iterator[Person]:
    site.clock.ahead += 61
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    yield Person(context.new_page(), site)
    context.close()


def test_signing_in_and_every_page(person: Person, owner: str) -> None:
    person.open("/accesses?user=app_user")
    person.sign_in("wrong")
    assert "name or password is wrong" in person.page.inner_text("[role=alert]")
    # The browser says of itself that an answer was 403.
    person.complaints.clear()
    person.sign_in()
    assert person.page.url == f"{person.site.url}/accesses?user=app_user"
    for scheme in ("light", "dark"):
        person.page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            person.page.set_viewport_size({"width": width, "height": 800})
            for path in (*PAGES, f"/secret?owner={owner}&name=stripe"):
                person.open(path)
                assert person.page.inner_text("h1")
                # Tables scroll in themselves; the page does not.
                assert person.page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    person.page.click("#content a[href^='/session/'] >> nth=0")
    assert person.page.inner_text("h1").startswith("Session")
    person.open("/integrity")
    person.page.click("text=Verify now")
    person.page.wait_for_selector("text=The report as JSON")
    person.page.click("text=Sign out")
    assert person.page.url == f"{person.site.url}/sign-in"
    person.open("/accesses")
    assert "/sign-in" in person.page.url
    assert person.complaints == []


def test_names_are_shown_and_do_nothing(person: Person, owner: str) -> None:
    person.open(f"/accesses?owner={owner}")
    person.sign_in()
    links = person.page.locator("#accesses td.names a")
    titles = {links.nth(place).get_attribute("title") for place in range(links.count())}
    assert {quoted(name) for name in (MARKUP, HIDDEN, EMOJI, LONG)} <= titles and HIDDEN not in titles
    # A name of nearly 200 bytes is shortened in its middle, and whole on its own page.
    person.page.locator(f"#accesses td.names a[title$='{LONG[-20:]}']").first.click()
    assert LONG in person.page.inner_text("dl.facts")
    person.page.go_back()
    person.page.locator("#accesses td.names a", has_text="<script>").first.click()
    assert quoted(MARKUP) in person.page.inner_text("dl.facts")
    assert person.complaints == []


def test_filters_keys_and_rows_that_come_by_themselves(person: Person, proxy: Proxy, postgres: Backend) -> None:
    owner = "b0b05e4d-3c2b-4a19-8f7e-6d5c4b3a2918"
    person.open("/accesses")
    person.sign_in()
    person.page.keyboard.press("/")
    assert person.page.evaluate("document.activeElement.name") == "since"
    person.page.fill("[name=owner]", owner)
    person.page.select_option("[name=operation]", "read")
    person.page.evaluate("window.loadedOnce = true")
    person.page.click("text=Show")
    person.page.wait_for_url(f"{person.site.url}/accesses?owner={owner}&operation=read")
    person.page.wait_for_selector("#live:has-text('Live:')")
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        for name in ("first", MARKUP):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, name))
    person.page.wait_for_selector("#accesses tbody tr:nth-child(2)")
    assert person.page.locator("#accesses tbody tr").count() == 2
    assert person.page.get_attribute("#accesses tbody tr:first-child td.names a", "title") == quoted(MARKUP)
    # Another filter, and back to the one before, without a reload; rows come of the one that is shown.
    person.page.select_option("[name=operation]", "write")
    person.page.click("text=Show")
    person.page.wait_for_selector("#accesses tr.none")
    assert person.page.url.endswith("&operation=write")
    person.page.go_back()
    person.page.wait_for_selector("#accesses tbody tr:nth-child(2)")
    assert person.page.input_value("[name=operation]") == "read"
    person.page.wait_for_selector("#live:has-text('Live:')")
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'written', 'value')", (owner,))
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'third')", (owner,))
    person.page.wait_for_selector("#accesses tbody tr:first-child td.names a:has-text('third')")
    assert person.page.locator("#accesses tbody tr").count() == 3 and person.page.evaluate("window.loadedOnce")
    person.page.locator("body").focus()
    person.page.evaluate("document.activeElement.blur()")
    person.page.keyboard.press("g")
    person.page.keyboard.press("f")
    person.page.wait_for_url("**/findings")
    assert person.complaints == []


def test_who_is_turned_away_is_told_why(person: Person) -> None:
    """A wrong password and a login without rights show nothing of the log; the right one then gets in."""
    person.open("/accesses")
    for user, password, said in (
        ("console_auditor", "wrong", "name or password is wrong"),
        ("console_outsider", PASSWORD, "this login may not read the log"),
    ):
        person.sign_in(password, user)
        assert said in person.page.inner_text("[role=alert]")
        assert "/sign-in" in person.page.url and person.page.locator("nav, table").count() == 0
        # The browser says of itself that an answer was 403.
        assert all("403" in text for text in person.complaints), person.complaints
        person.complaints.clear()
    person.sign_in()
    assert person.page.inner_text("h1") == "Accesses"
    assert person.complaints == []


def test_a_session_that_is_over_asks_for_the_password_and_goes_on_where_it_was(person: Person, owner: str) -> None:
    path = f"/accesses?owner={owner}&operation=verify"
    person.open(path)
    person.sign_in()
    person.page.wait_for_selector("#live:has-text('Live:')")
    person.site.clock.ahead += 16 * 60
    person.page.wait_for_selector("#live:has-text('Your session has ended')")
    with person.page.expect_navigation(wait_until="load"):
        person.page.click("text=Show")
    assert "/sign-in" in person.page.url and person.page.locator("#accesses").count() == 0
    person.sign_in()
    assert person.page.url == person.site.url + path and person.page.locator("#accesses tbody tr").count() == 1
    assert person.complaints == []


def test_a_row_is_there_within_a_second_of_its_call(person: Person, proxy: Proxy) -> None:
    """The quickest of five is taken: other tests may run on this machine meanwhile."""
    owner = "5ec0bd5e-1a2b-4c3d-8e9f-0a1b2c3d4e5f"
    person.open(f"/accesses?owner={owner}")
    person.sign_in()
    person.page.wait_for_selector("#live:has-text('Live:')")
    taken = []
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT 1")
        for number in range(5):
            began = time.monotonic()
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, f"row-{number}"))
            person.page.wait_for_selector(f"#accesses td.names a:has-text('row-{number}')")
            taken.append(time.monotonic() - began)
            if taken[-1] < 1:
                break
    assert min(taken) < 1, taken
    assert person.complaints == []


def test_a_download_is_what_the_page_shows(person: Person, owner: str, postgres: Backend, tmp_path: Path) -> None:
    """In each form, also where the filter is of an outcome; with proof it is verified without the database."""
    person.open(f"/accesses?owner={owner}")
    person.sign_in()
    person.page.click("summary:has-text('More columns')")
    person.page.select_option("[name=how]", "access")
    person.page.select_option("[name=outcome]", "ok")
    person.page.fill("[name=calls]", "1")
    with person.page.expect_navigation(wait_until="load"):
        person.page.click("text=Show")
    assert person.page.url == f"{person.site.url}/accesses?owner={owner}&outcome=ok&calls=1&how=access"
    assert person.page.locator("[name=calls]").is_visible()
    shown = [row.get_attribute("id") for row in person.page.locator("#accesses tbody tr.access").all()]
    assert shown

    def saved(link: str) -> Path:
        with person.page.expect_download() as waiting:
            person.page.get_by_role("link", name=link, exact=True).click()
        place = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(place)
        return place

    lines = [json.loads(line) for line in saved("JSON lines").read_text().splitlines()]
    with saved("CSV").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [f"access-{row['id']}" for row in reversed(lines)] == [f"access-{row['id']}" for row in cells[::-1]] == shown
    archive = saved("With proof")
    with zipfile.ZipFile(archive) as found:
        found.extractall(tmp_path)
    key = postgres.key_file.with_name("console.pem.pub")
    done = secretproxy(["audit", "verify", "--file", str(archive.with_suffix("")), "--public-key", str(key)])
    assert done.returncode == 0 and f"each of the {len(shown)} accesses" in done.stdout, done.stdout
    assert person.complaints == []


def test_a_row_opens_and_has_everything(person: Person, owner: str, proxy: Proxy, postgres: Backend) -> None:
    """The path of the call is drawn, the fingerprint is whole, the session is a link."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION public.read_in_browser(who uuid) RETURNS text LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN encrypted_secrets.secrets_getter(who, 'by path'); END $$"
        )
        try:
            with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
                sql.execute("SELECT public.read_in_browser(%s)", (owner,))
        finally:
            admin.execute("DROP FUNCTION public.read_in_browser(uuid)")
    person.open(f"/accesses?owner={owner}&via=read_in_browser")
    person.sign_in()
    row = person.page.locator("#accesses tbody tr.access").first
    assert not row.locator("dl.known").is_visible()
    row.locator("summary:has-text('Everything')").click()
    row.locator("ol.path li").first.wait_for(state="visible")
    steps = row.locator("ol.path li").all_inner_texts()
    assert steps[0] == "the statement" and "read_in_browser" in steps[1] and "secrets_getter" in steps[2]
    text = row.locator("dl.known").inner_text()
    assert all(name in text for name in ("fingerprint", "session_id", "statement_no", "client_port", "instance", "seq"))
    row.locator("a[href^='/session/']").click()
    assert person.page.inner_text("h1").startswith("Session") and person.complaints == []


def test_what_the_policy_forbids_is_seen(person: Person) -> None:
    """The other tests find no violation because there is none, not because nobody looks."""
    person.open("/sign-in")
    assert person.complaints == []
    person.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'alert(3)' }))"
    )
    person.page.evaluate("document.body.style.cssText = ''; document.body.setAttribute('style', 'color: red')")
    person.page.wait_for_timeout(50)
    assert sum("forbidden by the policy" in text for text in person.complaints) == 2, person.complaints


def test_no_page_has_an_accessibility_fault(person: Person, owner: str) -> None:
    """Nothing is what axe-core calls serious or critical: on every page, narrow, and where colours are, dark."""
    axe = (node_modules() / "axe-core" / "axe.min.js").read_text()
    person.open("/")
    person.sign_in()
    found = []
    secret = f"/secret?owner={owner}&name=stripe"
    for scheme, width, paths in (
        ("light", 390, (*PAGES, secret, "/accesses?how=access", "/nowhere")),
        ("dark", 1280, ("/", "/accesses", "/integrity", secret)),
    ):
        person.page.emulate_media(color_scheme=scheme)
        person.page.set_viewport_size({"width": width, "height": 800})
        for path in paths:
            person.open(path)
            person.page.evaluate(axe)
            for fault in person.page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    found.append((path, scheme, fault["id"], [node["html"][:120] for node in fault["nodes"]][:3]))
    assert found == []
