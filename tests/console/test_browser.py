"""Checks the console in a real browser: nothing is blocked or fails, rows come by themselves, pages fit a telephone,
keys work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from secretproxy.audit.texts import quoted
from tests.conftest import Backend
from tests.console.conftest import HIDDEN, MARKUP
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
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))

    def open(self, path: str) -> None:
        self.page.goto(self.site.url + path)

    def sign_in(self, password: str = PASSWORD) -> None:
        self.page.fill("[name=user]", "console_auditor")
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
    assert quoted(MARKUP) in titles and quoted(HIDDEN) in titles and HIDDEN not in titles
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
    person.page.click("text=Show")
    assert person.page.url == f"{person.site.url}/accesses?owner={owner}&operation=read"
    person.page.wait_for_selector("#live:has-text('Live:')")
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        for name in ("first", MARKUP):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, name))
    person.page.wait_for_selector("#accesses tbody tr:nth-child(2)")
    assert person.page.locator("#accesses tbody tr").count() == 2
    assert person.page.get_attribute("#accesses tbody tr:first-child td.names a", "title") == quoted(MARKUP)
    person.page.keyboard.press("g")
    person.page.keyboard.press("f")
    person.page.wait_for_url("**/findings")
    assert person.complaints == []


def test_no_page_has_an_accessibility_fault(person: Person, owner: str) -> None:
    """Nothing is what axe-core calls serious or critical: on every page, narrow, and where colours are, dark."""
    axe = (node_modules() / "axe-core" / "axe.min.js").read_text()
    person.open("/")
    person.sign_in()
    found = []
    secret = f"/secret?owner={owner}&name=stripe"
    for scheme, width, paths in (
        ("light", 390, (*PAGES, secret, "/nowhere")),
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
