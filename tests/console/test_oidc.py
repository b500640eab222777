"""An OpenID Connect provider vouches for an auditor, and nobody else comes in with its answers: each check of a sign-in
has an answer that fails it alone.

The provider is one of the tests' own; its keys are made here."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from secretproxy.config import ConfigError, Settings
from secretproxy.console.app import Console
from tests.conftest import Backend
from tests.console.conftest import settings_of
from tests.support.console import Answer, Browser, ConsoleSite, logins_with_passwords, running
from tests.support.proxy import Proxy

pytest.importorskip("authlib")
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

CLIENT, SECRET = "console & co", "a secret/+ with: signs"
SERVICE = "console_oidc"
REDIRECT = "http://127.0.0.1:6480/oidc/callback"


@dataclass
class FakeProvider:
    """Answers as its fields say. `claims` and `header` are put over what is right; `None` takes a claim out."""

    port: int = 0
    key: Any = field(default_factory=lambda: ECKey.generate_key("P-256", parameters={"kid": "k1"}))
    sign_with: Any = None
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    token: Callable[[str], dict[str, Any]] | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/realm"

    def reset(self) -> None:
        self.sign_with, self.token, self.claims, self.header, self.metadata = None, None, {}, {}, {}

    def answer(self, path: str, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        self.asked.append(path)
        base = self.issuer
        if path == "/realm/.well-known/openid-configuration":
            return {
                "issuer": base, "authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/token",
                "jwks_uri": f"{base}/keys",
            } | self.metadata  # fmt: skip
        if path == "/realm/keys":
            return {"keys": [self.key.as_dict(private=False)]}
        if path != "/realm/token":
            return None
        known = self.codes.pop(form["code"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        assert known["code_challenge"] == challenge.rstrip("=") and known["code_challenge_method"] == "S256"
        assert form["redirect_uri"] == known["redirect_uri"] == REDIRECT and known["client_id"] == CLIENT
        name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        assert parse_qs(f"n={name}&s={secret}") == {"n": [CLIENT], "s": [SECRET]}
        now = int(time.time())
        claims = {
            "iss": base, "sub": "4711", "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": known["nonce"],
            "email": "jane@example.com", "email_verified": True,
        } | self.claims  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.sign_with or self.key
        header = {"alg": "ES256", "kid": "k1"} | self.header
        made = jwt.encode(header, claims, key, algorithms=["ES256", "HS256", "RS256"])
        return self.token(made) if self.token else {"id_token": made, "access_token": "access", "token_type": "Bearer"}


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    made = FakeProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if made.metadata.get("issuer") == "no HTTP":
                self.wfile.write(b"no HTTP\r\n\r\n")
                return
            length = int(self.headers.get("content-length", "0"))
            form = {name: value[0] for name, value in parse_qs(self.rfile.read(length).decode()).items()}
            try:
                found = made.answer(self.path, form, self.headers.get("authorization", ""))
            except (AssertionError, KeyError):
                found = None
            body = json.dumps(found or {"error": "invalid_grant"}).encode()
            self.send_response(200 if found else 400)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the server's names

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


def console_settings(provider: FakeProvider, dsn: str) -> dict[str, Any]:
    return {
        "url": "http://127.0.0.1:6480/", "oidc_issuer": provider.issuer, "oidc_client_id": CLIENT, "oidc_client_secret": SECRET,
        "oidc_logins": [
            "jane@example.com=console_auditor", "out@example.com=console_outsider", "root@example.com=postgres",
            "service@example.com=console_oidc", "4712=console_colleague",
        ],
        "oidc_dsn": dsn,
    }  # fmt: skip


@pytest.fixture(scope="module")
def site(postgres: Backend, proxy: Proxy, provider: FakeProvider) -> Iterator[ConsoleSite]:
    if postgres.server is None:
        pytest.skip("pg_hba.conf of a container is not at hand")
    settings = settings_of(postgres)
    settings = Settings.model_validate(
        settings.model_dump() | {"console": console_settings(provider, postgres.dsn(SERVICE))}
    )
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin, logins_with_passwords(postgres):
        admin.execute(f"CREATE ROLE {SERVICE} LOGIN NOINHERIT")
        admin.execute(f"GRANT console_auditor, console_outsider TO {SERVICE}")
        try:
            with running(postgres.dsn("nobody"), settings) as found:
                yield found
        finally:
            admin.execute(f"DROP ROLE {SERVICE}")


@pytest.fixture(autouse=True)
def _right(provider: FakeProvider) -> None:
    provider.reset()


def begun(site: ConsoleSite, provider: FakeProvider, browser: Browser, to: str = "/findings") -> dict[str, str]:
    """Gives what the provider is asked for somebody; a code `c` is worth it."""
    site.clock.ahead += 61
    answer = browser.get("/oidc/begin", {"to": to})
    assert answer.status == 303 and answer.location.startswith(f"{provider.issuer}/authorize?"), answer.text
    asked = {name: value[0] for name, value in parse_qs(urlsplit(answer.location).query).items()}
    provider.codes["c"] = asked
    return asked


def called_back(browser: Browser, asked: dict[str, str], **query: str) -> Answer:
    return browser.get("/oidc/callback", {"code": "c", "state": asked["state"], **query})


def test_who_is_vouched_for_reads_and_is_recorded_by_name(
    site: ConsoleSite, provider: FakeProvider, postgres: Backend
) -> None:
    browser = site.browser()
    assert "Sign in at 127.0.0.1" in browser.get("/sign-in").text
    asked = begun(site, provider, browser, "/findings?span=24h")
    assert asked["response_type"] == "code" and asked["scope"] == "openid email" and asked["redirect_uri"] == REDIRECT
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = called_back(browser, asked)
    assert answer.status == 200 and 'content="0; url=/findings?span=24h"' in answer.text
    cookies = answer.headers.get_all("set-cookie") or []
    assert any("SameSite=strict" in one and "HttpOnly" in one for one in cookies)
    assert list(browser.cookies) == ["secretproxy"]
    shown = browser.get("/accesses")
    assert shown.status == 200 and "console_auditor" in shown.text and 'class="problem"' not in shown.text
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        row = sql.execute(
            "SELECT db_user, function FROM secretproxy.access_log WHERE event = 'review' ORDER BY at DESC, seq DESC LIMIT 1"
        ).fetchone()
        roles = sql.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'secretproxy console'"
        )
        assert row == ("console_auditor", "accesses") and roles.fetchall() == [(SERVICE,)]
    assert browser.get("/doctor").status == 200
    # Neither a token nor the secret is kept by what lives as long as a session.
    session = next(one for one in site.console.sessions.all() if one.user == "console_auditor")
    kept = f"{session!r} {vars(session.reader)} {vars(site.console._provider)}"
    assert "access" not in kept.replace("access_log", "") and SECRET not in kept and "eyJ" not in kept


NOW = int(time.time())
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"claims": {"nonce": "other"}}, "not one for this sign-in"),
    "no nonce": ({"claims": {"nonce": None}}, "not one for this sign-in"),
    "another audience": ({"claims": {"aud": "another client"}}, "not one for this sign-in"),
    "no audience": ({"claims": {"aud": None}}, "not one for this sign-in"),
    "two audiences, issued to the other": ({"claims": {"aud": [CLIENT, "x"], "azp": "x"}}, "not one for this sign-in"),
    "two audiences, issued to nobody": ({"claims": {"aud": [CLIENT, "x"]}}, "not one for this sign-in"),
    "another issuer": ({"claims": {"iss": "https://evil.example"}}, "not one for this sign-in"),
    "no issuer": ({"claims": {"iss": None}}, "not one for this sign-in"),
    "expired": ({"claims": {"exp": NOW - 3600, "iat": NOW - 7200}}, "not one for this sign-in"),
    "never expires": ({"claims": {"exp": None}}, "not one for this sign-in"),
    "of the future": ({"claims": {"iat": NOW + 86400, "nbf": NOW + 86400, "exp": NOW + 90000}}, "not one for this"),
    "another's access token": ({"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}}, "not one for this sign-in"),
    "signed by another key": ({"sign_with": ECKey.generate_key("P-256")}, "not one for this sign-in"),
    "signed by a key of another kind": (
        {"sign_with": RSAKey.generate_key(2048), "header": {"alg": "RS256"}}, "not one for this sign-in",
    ),
    "signed by the client's secret": (
        {"sign_with": OctKey.import_key(SECRET), "header": {"alg": "HS256"}}, "not one for this sign-in",
    ),
    "an e-mail address that nobody verified": ({"claims": {"email_verified": False}}, "has not verified"),
    "verified as a text": ({"claims": {"email_verified": "true"}}, "has not verified"),
    "no e-mail address": ({"claims": {"email": None}}, "does not say who you are"),
    "an address that is a list": ({"claims": {"email": ["jane@example.com"]}}, "does not say who you are"),
    "nobody's address": ({"claims": {"email": "eve@example.com"}}, "mapped to no login"),
    "the address in capitals": ({"claims": {"email": "JANE@example.com"}}, "mapped to no login"),
    "a login that is no auditor": ({"claims": {"email": "out@example.com"}}, "may not read as console_outsider"),
    "a superuser": ({"claims": {"email": "root@example.com"}}, "may not read as postgres"),
    "the console's own login": ({"claims": {"email": "service@example.com"}}, "may not read as console_oidc"),
    "the subject of another": ({"claims": {"sub": "4712", "email": "4712"}}, "may not read as console_colleague"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_answer_that_is_not_right_lets_nobody_in(site: ConsoleSite, provider: FakeProvider, case: str) -> None:
    fields, said = WRONG[case]
    for name, value in fields.items():
        setattr(provider, name, value)
    browser = site.browser()
    answer = called_back(browser, begun(site, provider, browser))
    assert answer.status in (403, 503) and said in answer.text and not browser.cookies
    for text in ("eve@", "jane@", "eyJ", SECRET):
        assert text not in answer.text
    assert browser.get("/accesses").status == 303


def test_a_key_that_the_provider_rotated_signs_nobody_in_and_the_new_one_does(
    site: ConsoleSite, provider: FakeProvider
) -> None:
    """Keys are asked for at each sign-in, also for one that began before the rotation; that the old key has the same
    name helps nobody."""
    old = provider.key
    browser = site.browser()
    asked = begun(site, provider, browser)
    provider.key = ECKey.generate_key("P-256", parameters={"kid": "k2"})
    try:
        provider.header = {"kid": "k2"}
        assert called_back(browser, asked).status == 200 and browser.get("/incident").status == 200
        for name in ("k1", "k2"):
            provider.sign_with, provider.header = old, {"kid": name}
            late = site.browser()
            answer = called_back(late, begun(site, provider, late))
            assert answer.status == 503 and "not one for this sign-in" in answer.text and not late.cookies, name
    finally:
        provider.key = old


def unsigned(token: str) -> dict[str, Any]:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return {"id_token": f"{part({'alg': 'none'})}.{token.split('.')[1]}."}


def altered(token: str) -> dict[str, Any]:
    header, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    made = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "root"}).encode()).decode().rstrip("=")
    return {"id_token": f"{header}.{made}.{signature}"}


@pytest.mark.parametrize(
    "token",
    [unsigned, altered, lambda token: {}, lambda token: {"id_token": 7}, lambda token: {"id_token": "a.b.c"}, lambda token: {"id_token": token + "x"}],
    ids=["alg none", "altered", "no token", "a number", "no JWT", "one character more"],
)  # fmt: skip
def test_a_token_that_proves_nothing_lets_nobody_in(
    site: ConsoleSite, provider: FakeProvider, token: Callable[[str], dict[str, Any]]
) -> None:
    provider.token = token
    browser = site.browser()
    answer = called_back(browser, begun(site, provider, browser))
    assert answer.status == 503 and "cannot be used now" in answer.text and not browser.cookies


def test_a_state_is_used_once_by_the_browser_that_began(site: ConsoleSite, provider: FakeProvider) -> None:
    browser, other = site.browser(), site.browser()
    asked = begun(site, provider, browser)
    for state in ("", "x", asked["state"][:-1], asked["state"] + "x"):
        assert (
            "not under way"
            in Browser(site.port, dict(browser.cookies)).get("/oidc/callback", {"code": "c", "state": state}).text
        )
    assert called_back(browser, asked).status == 200
    provider.codes["c"] = asked
    browser.cookies = {"secretproxy-oidc": "x"}
    assert "not under way" in called_back(browser, asked).text
    # Somebody else's sign-in, given to this browser: it is over for both.
    for cookies in ({}, {"secretproxy-oidc": "x"}):
        asked = begun(site, provider, other)
        stranger = Browser(site.port, dict(cookies))
        assert "another browser" in called_back(stranger, asked).text and "secretproxy" not in stranger.cookies
        assert "not under way" in called_back(other, asked).text
    # Too late.
    late = site.browser()
    asked = begun(site, provider, late)
    site.clock.ahead += 601
    assert "took too long" in called_back(late, asked).text


def test_what_the_provider_refuses_is_said_without_its_words(site: ConsoleSite, provider: FakeProvider) -> None:
    for query, said in (
        ({"error": "access_denied", "error_description": "call 555"}, "did not let you in (access_denied)"),
        ({"error": "<script>alert(1)</script>"}, "did not let you in."),
        ({"iss": "https://evil.example"}, "another provider answered"),
        ({"code": ""}, "did not let you in"),
        ({"code": "unknown"}, "it answered 400"),
        ({"x": "y" * 9000}, "too long"),
    ):
        browser = site.browser()
        answer = called_back(browser, begun(site, provider, browser), **query)
        assert answer.status in (403, 503) and said in answer.text, answer.text
        assert "555" not in answer.text and "<script>alert" not in answer.text and "evil" not in answer.text


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "http://127.0.0.1:1/realm"}, {"token_endpoint": "http://evil.example/token"}, {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": None}, {"token_endpoint": "http://127.0.0.1@evil.example/"},
        {"authorization_endpoint": "javascript:alert(1)"}, {"issuer": "no HTTP"},
    ],
    ids=str,
)  # fmt: skip
def test_a_provider_that_is_another_is_not_asked(
    site: ConsoleSite, provider: FakeProvider, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    site.clock.ahead += 61
    answer = site.browser().get("/oidc/begin")
    assert answer.status == 503 and "cannot be used now" in answer.text and "evil" not in answer.text


def test_a_sign_in_begun_elsewhere_or_too_often_is_refused(site: ConsoleSite, provider: FakeProvider) -> None:
    site.clock.ahead += 61
    assert site.browser().get("/oidc/begin", **{"Sec-Fetch-Site": "cross-site"}).status == 403
    for to in ("//evil.example", "https://evil.example", "/\\evil.example", "/x\r\ny"):
        browser = site.browser()
        answer = called_back(browser, begun(site, provider, browser, to))
        assert answer.status == 200 and 'content="0; url=/"' in answer.text and "evil" not in answer.text
    statuses = [site.browser().get("/oidc/begin").status for _ in range(12)]
    assert statuses[-1] == 429 and statuses.count(303) <= 10


def test_an_old_session_is_not_taken_over(site: ConsoleSite, provider: FakeProvider) -> None:
    browser = site.browser()
    browser.cookies = {"secretproxy": "fixed by somebody else"}
    assert called_back(browser, begun(site, provider, browser)).status == 200
    first = browser.cookies["secretproxy"]
    assert first != "fixed by somebody else"
    assert called_back(browser, begun(site, provider, browser)).status == 200
    assert browser.cookies["secretproxy"] != first
    assert Browser(site.port, {"secretproxy": first}).get("/accesses").status == 303


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("REVOKE secretproxy_auditor FROM console_auditor", "GRANT secretproxy_auditor TO console_auditor"),
        ("ALTER ROLE console_auditor NOLOGIN", "ALTER ROLE console_auditor LOGIN"),
        (f"REVOKE console_auditor FROM {SERVICE}", f"GRANT console_auditor TO {SERVICE}"),
        ("ALTER ROLE console_auditor BYPASSRLS", "ALTER ROLE console_auditor NOBYPASSRLS"),
        ("ALTER ROLE console_auditor CREATEROLE", "ALTER ROLE console_auditor NOCREATEROLE"),
    ],
)
def test_who_loses_the_right_reads_nothing_more(
    site: ConsoleSite, provider: FakeProvider, postgres: Backend, away: str, back: str
) -> None:
    """At the next page, on connections that are open too; and nobody signs in so meanwhile."""
    browser = site.browser()
    assert called_back(browser, begun(site, provider, browser)).status == 200
    assert browser.get("/accesses").status == 200
    csrf = browser.csrf()
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(away)
        try:
            for path in ("/accesses", "/", "/integrity", "/doctor", "/download", "/live?known=2026-11-24"):
                answer = browser.get(path)
                assert answer.status == 503 and "may not read as console_auditor" in answer.text, path
                assert "access-" not in answer.text
            assert browser.send("POST", "/integrity/verify", {"csrf": csrf}).status == 503
            other = site.browser()
            assert called_back(other, begun(site, provider, other)).status == 403
        finally:
            admin.execute(back)
    assert browser.get("/accesses").status == 200


def test_a_login_of_the_console_that_reads_by_itself_is_refused(
    site: ConsoleSite, provider: FakeProvider, postgres: Backend
) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(f"REVOKE console_auditor FROM {SERVICE}; ALTER ROLE {SERVICE} INHERIT")
        admin.execute(f"GRANT console_auditor TO {SERVICE}")
        try:
            browser = site.browser()
            answer = called_back(browser, begun(site, provider, browser))
            assert answer.status == 403 and "NOINHERIT" in answer.text
        finally:
            admin.execute(f"REVOKE console_auditor FROM {SERVICE}; ALTER ROLE {SERVICE} NOINHERIT")
            admin.execute(f"GRANT console_auditor TO {SERVICE}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"oidc_client_secret": None}, "console.oidc_client_secret"), ({"oidc_dsn": None, "url": None}, "console.url, console.oidc_dsn"),
        ({"oidc_logins": []}, "console.oidc_logins"), ({"oidc_logins": ["jane"]}, "not claim=login"), ({"oidc_logins": ["a=b", "a=c"]}, "mapped twice"),
        ({"oidc_issuer": "http://idp.example"}, "https"), ({"url": "http://log.example"}, "https"), ({"oidc_issuer": "https://u@idp.example"}, "https"),
    ],
)  # fmt: skip
def test_a_configuration_that_lacks_something_names_it(
    provider: FakeProvider, change: dict[str, Any], said: str
) -> None:
    given = {
        name: value
        for name, value in (console_settings(provider, "host=x user=y") | change).items()
        if value is not None
    }
    with pytest.raises(ValueError, match=said):
        Settings.model_validate({"console": given})


def test_the_extra_that_is_missing_is_named(
    provider: FakeProvider, site: ConsoleSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({"console": console_settings(provider, "host=x user=y")})
    assert SECRET not in repr(settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'secretproxy\\[oidc\\]'"):
        Console(site.console._conninfo, settings, None, site.console.recorder, tls=False)


def test_without_a_provider_there_is_no_such_way_in(site: ConsoleSite, postgres: Backend) -> None:
    with running(postgres.dsn("nobody"), settings_of(postgres)) as plain:
        assert "/oidc/" not in plain.browser().get("/sign-in").text
        assert plain.browser().get("/oidc/begin").status == 404
        assert plain.browser().get("/oidc/callback?state=x&code=y").status == 404
