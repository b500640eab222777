"""Provides one console for all tests of a module, and accesses for it to show, with names as hostile as names can
be."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from secretproxy.config import Settings
from tests.conftest import Backend
from tests.support.console import WRITER, Browser, ConsoleSite, logins_with_passwords, running
from tests.support.proxy import Proxy

MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}&amp;"
HIDDEN = "pay\u202egnp.exe\u200b\u2066\x1b[2J\r\n\u2028end"
EMOJI = "key \U0001f511 \u0646\u0635"
LONG = "n" * 190 + "-the-end"
HOSTILE = (MARKUP, HIDDEN, EMOJI, LONG)
APPLICATION = "<b onmouseover=alert(2)>app</b>"


def settings_of(postgres: Backend) -> Settings:
    """Makes what a console needs to record who reads."""
    return Settings.model_validate(
        {
            "audit": {"dsn": postgres.dsn(WRITER), "checkpoint_key_file": postgres.key_file.with_name("console.pem")},
            "testimony": {"key_file": str(postgres.key_file)},
        }
    )


@pytest.fixture(scope="module")
def site(postgres: Backend, proxy: Proxy) -> Iterator[ConsoleSite]:
    if postgres.server is None:
        pytest.skip("pg_hba.conf of a container is not at hand")
    with logins_with_passwords(postgres), running(postgres.dsn("nobody"), settings_of(postgres)) as found:
        yield found


@pytest.fixture(scope="module")
def owner(postgres: Backend, proxy: Proxy) -> str:
    """Makes an owner with a story: writes, reads, a verify, an error, hostile names, a direct call."""
    made = str(uuid.uuid4())
    with psycopg.connect(proxy.dsn(), autocommit=True, application_name=APPLICATION) as sql:
        for name in ("stripe", *HOSTILE):
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'value')", (made, name))
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (made, name))
        sql.execute("SELECT encrypted_secrets.secrets_verify(%s, 'stripe', 'guess')", (made,))
        with pytest.raises(psycopg.Error):
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'bad', 'value', 'rot13')", (made,))
    with psycopg.connect(postgres.dsn("app_user"), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'stripe')", (made,))
    return made


@pytest.fixture
def auditor(site: ConsoleSite) -> Iterator[Browser]:
    browser = site.browser()
    answer = browser.sign_in()
    assert answer.status == 303, answer.text
    yield browser
    session = next((one for one in site.console.sessions.all() if one.user == "console_auditor"), None)
    if session is not None:
        browser.send("POST", "/sign-out", {"csrf": session.csrf})
