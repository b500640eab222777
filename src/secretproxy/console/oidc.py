"""Signs people in at an OpenID Connect provider: the authorization code flow with PKCE, state and nonce.

What a sign-in is about is kept in this process alone, ten minutes at most, and used once; the browser that began it has
a cookie, and no other can end it. Of the provider's answers one claim is kept, and that only until it has named a
login: no token is. Imports authlib only where OIDC is configured."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import http.client
import importlib.util
import json
import re
import secrets
import urllib.error
import urllib.request
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from secretproxy.config import ConfigError, ConsoleSettings
from secretproxy.console.reading import SignInError
from secretproxy.console.security import same

# Seconds that somebody may take at the provider, and sign-ins that are under way at most.
PATIENCE, MOST_PENDING = 600.0, 1000
# Sign-ins at once that wait for the provider; more wait for these.
AT_ONCE = 4
# Seconds that clocks may differ by.
LEEWAY = 60
# A provider's answer: seconds that it may take, and bytes.
ANSWER_SECONDS, MOST_ANSWER = 10.0, 1_048_576
# Signatures by a key that the provider alone has. Neither `none` nor a signature by the client's secret is one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")


class _NotThisError(Exception):
    """The provider's answer cannot be used; the text says why, without its content."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in that is under way. `to`: the page to go on to; `metadata`: what the provider says of itself."""

    began: float
    browser: bytes
    nonce: str
    verifier: str
    to: str
    metadata: Mapping[str, Any]

    def __repr__(self) -> str:
        return "Pending(<redacted>)"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Follows nothing: an answer comes from the address that was asked."""


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """Makes what opens addresses, once: it reads the certificates of all authorities."""
    return urllib.request.build_opener(_NoRedirect)


def _fetch(url: str, form: Mapping[str, str] | None, headers: Mapping[str, str]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - `_trusted` has seen the address
        url,
        None if form is None else urlencode(form).encode(),
        {"Accept": "application/json", **headers},
    )
    try:
        with _opener().open(request, timeout=ANSWER_SECONDS) as answer:
            text = answer.read(MOST_ANSWER + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise _NotThisError(f"it answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _NotThisError(f"it cannot be reached ({type(getattr(error, 'reason', error)).__name__})") from None
    if len(text) > MOST_ANSWER:
        raise _NotThisError("its answer is too long")
    try:
        found = json.loads(text)
    except ValueError:
        raise _NotThisError("its answer is not JSON") from None
    if not isinstance(found, dict):
        raise _NotThisError("its answer is not a JSON object")
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


class Provider:
    """The provider of the configuration, and the sign-ins that are under way."""

    def __init__(self, settings: ConsoleSettings, clock: Callable[[], float]) -> None:
        """Raises ConfigError if authlib is not installed."""
        if importlib.util.find_spec("authlib") is None:
            raise ConfigError(
                "console.oidc_issuer: signing in with OIDC needs authlib: pip install 'secretproxy[oidc]'"
            )
        assert settings.oidc_issuer is not None
        self.issuer = settings.oidc_issuer
        self.name = urlsplit(self.issuer).hostname or self.issuer
        self._settings = settings
        self._clock = clock
        self._pending: OrderedDict[bytes, Pending] = OrderedDict()
        # Each takes a thread while the provider thinks.
        self._asking = asyncio.Semaphore(AT_ONCE)

    @property
    def redirect(self) -> str:
        return f"{(self._settings.url or '').rstrip('/')}/oidc/callback"

    async def begin(self, to: str) -> tuple[str, str]:
        """Begins a sign-in; gives the provider's address for it, and the cookie of the browser. Raises SignInError."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        try:
            async with self._asking:
                metadata = await asyncio.to_thread(self._discover)
        except _NotThisError as error:
            raise self._not_usable(error) from None
        state, browser, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(4))
        now = self._clock()
        while self._pending:
            oldest = next(iter(self._pending))
            if now - self._pending[oldest].began <= PATIENCE and len(self._pending) < MOST_PENDING:
                break
            del self._pending[oldest]
        self._pending[_digest(state)] = Pending(now, _digest(browser), nonce, verifier, to, metadata)
        asked = {
            "response_type": "code", "client_id": self._settings.oidc_client_id or "", "redirect_uri": self.redirect,
            "scope": self._settings.oidc_scope, "state": state, "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier), "code_challenge_method": "S256",
        }  # fmt: skip
        endpoint = metadata["authorization_endpoint"]
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", browser

    async def finish(self, query: Mapping[str, str], browser: str | None) -> tuple[str, str]:
        """Ends a sign-in with what the provider's redirect brought; gives the login and the page to go on to.

        Raises SignInError.
        """
        pending = self._pending.pop(_digest(query.get("state", "")), None)
        if pending is None or self._clock() - pending.began > PATIENCE:
            raise SignInError("this sign-in is not under way here, is over or took too long; begin it again")
        if browser is None or not same(_digest(browser).hex(), pending.browser.hex()):
            raise SignInError("this sign-in was begun in another browser; begin it again")
        announced = pending.metadata.get("authorization_response_iss_parameter_supported") is True
        if query.get("iss", self.issuer if not announced else None) != self.issuer:
            raise SignInError("another provider answered; begin again")
        if "error" in query or not query.get("code"):
            code = query.get("error", "")
            said = f" ({code})" if re.fullmatch("[a-z_]{1,40}", code) else ""
            raise SignInError(f"{self.name} did not let you in{said}")
        try:
            async with self._asking:
                claims = await asyncio.to_thread(self._claims, pending, query["code"])
        except _NotThisError as error:
            raise self._not_usable(error) from None
        return self._login(claims), pending.to

    def _not_usable(self, error: _NotThisError) -> SignInError:
        return SignInError(f"{self.name} cannot be used now: {error}", known=False)

    def _discover(self) -> Mapping[str, Any]:
        """Asks the provider what it is. Raises _NotThisError."""
        found = _fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration", None, {})
        if found.get("issuer") != self.issuer:
            raise _NotThisError("it names another issuer than console.oidc_issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(found.get(name), str) or not is_trusted(found[name], like=self.issuer):
                raise _NotThisError(f"its {name} is not an address with https")
        return dict(found)

    def _claims(self, pending: Pending, code: str) -> Mapping[str, Any]:
        """Exchanges the code for a token, and gives what the token says once it is proven. Raises _NotThisError."""
        # Long because the exchange and its proof belong together: what is asked for is what is checked.
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        settings, metadata = self._settings, pending.metadata
        assert settings.oidc_client_id is not None
        assert settings.oidc_client_secret is not None
        secret = settings.oidc_client_secret.get_secret_value()
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self.redirect,
            "code_verifier": pending.verifier,
        }  # fmt: skip
        headers = {}
        methods = metadata.get("token_endpoint_auth_methods_supported")
        if isinstance(methods, list) and "client_secret_basic" not in methods:
            form |= {"client_id": settings.oidc_client_id, "client_secret": secret}
        else:
            pair = f"{quote(settings.oidc_client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        answer = _fetch(metadata["token_endpoint"], form, headers)
        given = answer.get("id_token")
        if not isinstance(given, str):
            raise _NotThisError("it gave no id_token")
        keys = _fetch(metadata["jwks_uri"], None, {})
        try:
            token = jwt.decode(given, KeySet.import_key_set(keys), algorithms=list(ALGORITHMS))
            options = {
                "iss": {"essential": True, "value": self.issuer},
                "aud": {"essential": True, "value": settings.oidc_client_id},
            }
            params = {"nonce": pending.nonce, "client_id": settings.oidc_client_id}
            if isinstance(answer.get("access_token"), str):
                params["access_token"] = answer["access_token"]
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(leeway=LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _NotThisError(f"its id_token is not one for this sign-in ({type(error).__name__})") from None
        # What the libraries check by options is checked here by itself: everything rests on it.
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if (
            claims.get("iss") != self.issuer
            or settings.oidc_client_id not in audiences
            or (len(audiences) > 1 and claims.get("azp") != settings.oidc_client_id)
            or not same(str(claims.get("nonce")), pending.nonce)
        ):
            raise _NotThisError("its id_token is not one for this sign-in")
        return dict(claims)

    def _login(self, claims: Mapping[str, Any]) -> str:
        """Gives the login that a person is mapped to. Raises SignInError."""
        name = self._settings.oidc_claim
        value = claims.get(name)
        if not isinstance(value, str) or not value:
            raise SignInError(f"{self.name} does not say who you are: there is no claim {name}, see console.oidc_claim")
        if name == "email" and claims.get("email_verified") is not True:
            raise SignInError(f"{self.name} has not verified your e-mail address, see console.oidc_claim")
        login = self._settings.logins.get(value)
        if login is None:
            raise SignInError("you are mapped to no login of an auditor, see console.oidc_logins")
        return login


def is_trusted(url: str, like: str = "") -> bool:
    """Says whether an address has https, or is this machine's where `like` is (empty: where it is itself)."""
    try:
        found, other = urlsplit(url), urlsplit(like or url)
        here = ("localhost", "127.0.0.1", "::1")
        local = found.scheme == "http" and found.hostname in here and other.scheme == "http" and other.hostname in here
        return bool(found.hostname) and found.username is None and (found.scheme == "https" or local)
    except ValueError:
        return False
