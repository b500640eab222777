"""The console's application: sign-in, sign-out, and the pages behind them.

A page is a function of a `Visit` that gives a response; `Console` sees to it that somebody is signed in, that forms are
the console's own, that what is read is recorded before it is shown, and that an error of the log becomes a page that
says so."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote

import asyncpg
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from secretproxy import __version__
from secretproxy.audit.recorder import Recorder, UnrecordedError
from secretproxy.audit.review import UnreachedError
from secretproxy.config import ConfigError, ConsoleSettings, Settings, revealed
from secretproxy.connections import Conninfo, ConninfoError, read
from secretproxy.console import view
from secretproxy.console.oidc import PATIENCE, Provider
from secretproxy.console.parts import Part, in_parts
from secretproxy.console.proxy_state import ProxyState
from secretproxy.console.reading import PAGE_SECONDS, LogReader, SignInError, UnavailableError, assume, prove
from secretproxy.console.recording import identity_of
from secretproxy.console.security import Guard, Throttle, from_elsewhere, same
from secretproxy.console.sessions import Sessions, SignedIn
from secretproxy.session.events import Identity

log: Any = structlog.get_logger("secretproxy.console")

IDLE, LIFETIME = 15 * 60.0, 8 * 3600.0
# Until a page begins: it may wait for other pages of the same person, who may have as many connections as are let.
REQUEST_SECONDS = PAGE_SECONDS + 30.0
# Failed sign-ins in a minute: of one address, and for one name.
FAILURES_OF_ADDRESS, FAILURES_OF_NAME = 10, 20
# Sign-ins that are tried at once; more wait.
SIGN_INS_AT_ONCE = 4
# A login's name is as long as PostgreSQL keeps it.
MOST_NAME, MOST_PASSWORD = 63, 1024
# Bytes of what a provider's redirect brings.
MOST_QUERY = 8192
_STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
MENU = (
    ("Overview", "/"), ("Accesses", "/accesses"), ("Findings", "/findings"), ("Incident", "/incident"),
    ("Compare", "/compare"), ("Integrity", "/integrity"), ("Reviews", "/reviews"), ("Doctor", "/doctor"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is signed in."""

    request: Request
    session: SignedIn
    console: Console

    @property
    def reader(self) -> LogReader:
        return self.session.reader

    @property
    def query(self) -> dict[str, str]:
        """Gives the parts of the query string that are not empty.

        Raises ConfigError for what cannot be a text in PostgreSQL.
        """
        found = {name: value for name, value in self.request.query_params.items() if value}
        for name, value in found.items():
            if "\0" in value:
                raise ConfigError(f"{view.shortened(name)}: a text in PostgreSQL holds no NUL")
        return found

    async def form(self) -> dict[str, str]:
        """Reads the fields of a form of this session. Raises HTTPException for a form of another session."""
        given = dict(parse_qsl((await self.request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        if not same(given.get("csrf"), self.session.csrf):
            raise HTTPException(403, "This form is not of your session. Go back, reload the page and try again.")
        return given

    def _frame(self, template: str, values: Mapping[str, Any]) -> str:
        return self.console.render(
            template,
            menu=MENU,
            path=self.request.url.path,
            user=self.session.user,
            csrf=self.session.csrf,
            proxy=self.console.proxy,
            **values,
        )

    def show(self, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
        """Renders the page of a template."""
        return HTMLResponse(self._frame(template, {"title": title, **values}), status_code=status)

    async def stream(self, template: str, parts: Mapping[str, Part], *, title: str, **values: Any) -> Response:
        """Renders the page of a template at once, and sends its parts as they are made. Raises UnavailableError if the
        log cannot be read now."""
        if parts:
            await self.reader.reach()
        frame = self._frame(template, {"title": title, **values})
        return StreamingResponse(in_parts(frame, parts, self._part, self._waiting), media_type="text/html")

    async def _part(self, part: Part, begun: asyncio.Event) -> str:
        """Gives a part's HTML, or what is told of why there is none."""
        path, session = self.request.url.path, self.session
        try:
            async with session.counting, asyncio.timeout(PAGE_SECONDS):
                begun.set()
                values = {} if self.console.sessions.over(session) else await part.values()
            if not self.console.sessions.over(session):
                return self._frame(part.template, values)
            found = Told("Signed out", 401, "Your session has ended. Sign in again.")
        except TimeoutError:
            found = told(asyncpg.QueryCanceledError(), path)
        except Exception as error:
            found = told(error, path)
        return self.console.render("part-failed.html", said=found.said, status=found.status, again=found.again)

    def _waiting(self, part: Part, begun: bool) -> str:
        said = part.waits if begun else f"Your other pages are counted first. {part.waits}"
        return self.console.render("part-waiting.html", said=said)


Page = Callable[[Visit], Awaitable[Response]]


class Entry(NamedTuple):
    """A page: how it is asked for, what it is called in the log, and the parts of a query or form that are its filter.

    `asked` None: it shows nothing that was logged, or what it does is itself an event.
    """

    method: str
    path: str
    page: Page
    asked: str | None
    filters: tuple[str, ...] = ()


class Console:
    """The application and what it keeps: who is signed in, with their connections, and failed sign-ins."""

    def __init__(
        self,
        conninfo: Conninfo,
        settings: Settings,
        config: Path | None,
        recorder: Recorder,
        *,
        tls: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes `conninfo`: the log's database, whose login is never used; `tls`: whether browsers reach the console by
        TLS. Raises ConfigError.
        """
        self.settings = settings
        self.config = config
        self.recorder = recorder
        self.sessions = Sessions(IDLE, LIFETIME, clock, self._ended)
        self._conninfo = conninfo
        self._tls = tls
        self._cookie = "__Host-secretproxy" if tls else "secretproxy"
        self._templates = view.environment()
        self._by_address = Throttle(FAILURES_OF_ADDRESS, 60, clock)
        self._by_name = Throttle(FAILURES_OF_NAME, 60, clock)
        self._signing_in = asyncio.Semaphore(SIGN_INS_AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.proxy = ProxyState(settings.health)
        self._provider = None if settings.console.oidc_issuer is None else Provider(settings.console, clock)
        self._oidc = None if self._provider is None else _database_of(settings.console)

    def render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(version=__version__, **values)

    def begin(self, work: Any) -> None:
        """Runs a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def application(self, pages: list[Entry]) -> ASGIApp:
        """Makes the ASGI application."""
        routes = [
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._page(Entry("POST", "/sign-out", self._sign_out, None)), methods=["POST"]),
            Route("/oidc/begin", self._oidc_begin, methods=["GET"]),
            Route("/oidc/callback", self._oidc_callback, methods=["GET"]),
            Route("/static/{name}", self._static),
            *(Route(entry.path, self._page(entry), methods=[entry.method]) for entry in pages),
        ]
        inner = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: self._refused})  # type: ignore[dict-item]
        inner.router.redirect_slashes = False
        return Guard(inner, tls=self._tls)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        # A page waits for the log, the server does not: a signal ends it before a silent log was tried.
        self.begin(self.recorder.start())
        self.begin(self._sweep())
        self.begin(self.proxy.run())
        try:
            yield
        finally:
            await self.recorder.close()
            self.sessions.end_all()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        """Ends the sessions whose time has come, and closes connections that nobody uses."""
        while True:
            await asyncio.sleep(30)
            self.sessions.expire()
            for session in self.sessions.all():
                session.reader.close_idle()

    def _ended(self, session: SignedIn) -> None:
        session.reader.close()

    def find(self, request: Request, *, keep_alive: bool = True) -> SignedIn | None:
        return self.sessions.find(request.cookies.get(self._cookie), keep_alive=keep_alive)

    def next_review(self, visit: Visit) -> tuple[Identity, int]:
        """Gives the identity that is recorded as the reader, and the number of this page in their session."""
        session = visit.session
        session.pages += 1
        return identity_of(visit.request, session.id, session.user, self._conninfo.database), session.pages

    async def _recorded(self, visit: Visit, entry: Entry) -> None:
        """Records a page. Checks a form first: a form of another site is not this person's request."""
        given = await visit.form() if visit.request.method == "POST" else visit.query
        if entry.asked is not None:
            given = {**visit.request.path_params, **given}
            filters = [(name, given[name]) for name in entry.filters if given.get(name)]
            await self.recorder.record(*self.next_review(visit), entry.asked, filters)

    def _page(self, entry: Entry) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            # Live rows are asked for by the page, not by the person.
            session = self.find(request, keep_alive=request.url.path != "/live")
            if session is None:
                if request.url.path == "/live":
                    return PlainTextResponse("signed out", status_code=401)
                wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                to = f"?to={quote(wanted, safe='')}" if request.method == "GET" and wanted != "/" else ""
                return RedirectResponse(f"/sign-in{to}", status_code=303)
            visit = Visit(request, session, self)
            if from_elsewhere(request.headers):
                # Another port of this machine shares the cookie if there is no TLS: what its page asks for would be
                # recorded as this person's.
                said = (
                    "Another site's page led here. Nothing was shown or recorded. Go on if you want to see this page."
                )
                there = local_path(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
                return visit.show("elsewhere.html", title="Opened from elsewhere", status=403, said=said, there=there)
            try:
                await self._recorded(visit, entry)
                async with asyncio.timeout(REQUEST_SECONDS):
                    return await entry.page(visit)
            except HTTPException:
                raise
            except Exception as error:
                found = told(error, request.url.path)
                return visit.show(
                    "error.html", title=found.title, status=found.status, said=found.said, again=found.again
                )

        return answer

    async def _sign_in(self, request: Request) -> Response:
        to = local_path(request.query_params.get("to"))
        if request.method != "POST":
            return self._form(to)
        given = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        user, password = given.get("user", ""), given.get("password", "")
        if (
            not user
            or len(user.encode()) > MOST_NAME
            or not password
            or len(password) > MOST_PASSWORD
            or "\0" in user + password
        ):
            return self._form(to, "Give the name and the password of your PostgreSQL login.", status=400)
        source = source_of(request)
        if not self._by_address.begin(source):
            return self._form(to, "Too many failed sign-ins from this address. Wait a minute.", status=429)
        if not self._by_name.begin(user):
            return self._form(to, "Too many failed sign-ins with this name. Wait a minute.", status=429)
        try:
            async with self._signing_in:
                reader = await prove(self._conninfo, user, password)
        except SignInError as error:
            log.warning("console sign-in failed", client=source)
            return self._form(to, f"Not signed in: {error}.", status=403 if error.known else 503)
        self._by_address.went_well(source)
        self._by_name.went_well(user)
        answer = RedirectResponse(to, status_code=303)
        self._begin(request, answer, user, reader)
        return answer

    def _begin(self, request: Request, answer: Response, user: str, reader: LogReader) -> None:
        """Begins a session, and gives its cookie with the answer."""
        # A token that was there before signing in is never one after it.
        old = self.find(request)
        if old is not None:
            self.sessions.end(old)
        token = self.sessions.begin(user, reader)
        log.info("signed in to the console", user=user, client=source_of(request))
        answer.set_cookie(self._cookie, token, path="/", secure=self._tls, httponly=True, samesite="strict")

    async def _oidc_begin(self, request: Request) -> Response:
        """Sends the browser to the provider."""
        to = local_path(request.query_params.get("to"))
        if self._provider is None:
            raise HTTPException(404)
        if from_elsewhere(request.headers):
            return self._form(to, "Another site's page led here. Sign in from this page.", status=403)
        if not self._by_address.begin(source_of(request)):
            return self._form(to, "Too many failed sign-ins from this address. Wait a minute.", status=429)
        try:
            address, browser = await self._provider.begin(to)
        except SignInError as error:
            return self._form(to, f"Not signed in: {error}.", status=503)
        answer = RedirectResponse(address, status_code=303)
        # The provider's redirect comes from another site, which a strict cookie does not go along with.
        answer.set_cookie(
            f"{self._cookie}-oidc", browser, max_age=int(PATIENCE), path="/", secure=self._tls, httponly=True,
            samesite="lax",
        )  # fmt: skip
        return answer

    async def _oidc_callback(self, request: Request) -> Response:
        """Signs in whom the provider has vouched for."""
        if self._provider is None or self._oidc is None:
            raise HTTPException(404)
        source, to = source_of(request), "/"
        try:
            if len(request.url.query) > MOST_QUERY:
                raise SignInError("what the provider sent is too long")
            query = dict(request.query_params)
            user, to = await self._provider.finish(query, request.cookies.get(f"{self._cookie}-oidc"))
            async with self._signing_in:
                reader = await assume(self._oidc, user)
        except SignInError as error:
            log.warning("console sign-in failed", client=source)
            answer = self._form(to, f"Not signed in: {error}.", status=403 if error.known else 503)
        else:
            self._by_address.went_well(source)
            # A page of the console's own goes on: with a redirect, the browser would still come from the provider.
            answer = HTMLResponse(self.render("signed-in.html", title="Signed in", to=to))
            self._begin(request, answer, user, reader)
        answer.delete_cookie(f"{self._cookie}-oidc", path="/", secure=self._tls, httponly=True, samesite="lax")
        return answer

    def _form(self, to: str, problem: str = "", status: int = 200) -> Response:
        text = self.render(
            "sign-in.html",
            title="Sign in",
            problem=problem,
            to=to if to != "/" else "",
            provider=self._provider and self._provider.name,
        )
        return HTMLResponse(text, status_code=status)

    async def _sign_out(self, visit: Visit) -> Response:
        self.sessions.end(visit.session)
        answer = RedirectResponse("/sign-in", status_code=303)
        answer.delete_cookie(self._cookie, path="/", secure=self._tls, httponly=True, samesite="strict")
        return answer

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404)
        found = files("secretproxy.console") / "static" / name
        return Response(found.read_bytes(), media_type=_STATIC[name])

    async def _refused(self, request: Request, error: HTTPException) -> Response:
        titles = {403: "Refused", 404: "Nothing here", 405: "Not this way", 429: "Too many at once"}
        said = "There is no such page." if error.status_code in (404, 405) else str(error.detail)
        text = self.render("bare.html", title=titles.get(error.status_code, "Refused"), said=said)
        return HTMLResponse(text, status_code=error.status_code)


def _database_of(settings: ConsoleSettings) -> Conninfo:
    """Gives the log's database as console.oidc_dsn names it. Raises ConfigError."""
    try:
        return read(revealed(settings.oidc_dsn))
    except ConninfoError as error:
        raise ConfigError(f"console.oidc_dsn: {error}") from None


class Told(NamedTuple):
    """What a reader is told of an error."""

    title: str
    status: int
    said: str
    again: bool = True


def told(error: Exception, path: str) -> Told:
    """Gives what is told of an error. What nobody expected goes to the console's own log, by its kind alone: its text
    could quote a row."""
    if isinstance(error, UnrecordedError):
        return Told("Not recorded, so not shown", 503, str(error))
    if isinstance(error, UnreachedError | UnavailableError):
        return Told("The log did not answer", 503, str(error))
    if isinstance(error, ConfigError):
        return Told("Not understood", 400, str(error), again=False)
    if isinstance(error, OverflowError | asyncpg.DataError):
        return Told("Not understood", 400, "A time or number is out of range.", again=False)
    if isinstance(error, asyncpg.QueryCanceledError):
        return Told(
            "Too much at once",
            503,
            "This takes longer than a minute. Narrow it down to a shorter time, a user or a secret.",
        )
    if isinstance(error, TimeoutError):
        return Told("The log did not answer", 503, "There was no answer in time.")
    log.error("internal error of the console", kind=type(error).__name__, path=path)
    said = "The console failed here; its own log says where. The log of accesses is not touched by it."
    return Told("Internal error", 500, said, again=False)


def source_of(request: Request) -> str:
    """Gives the key by which failed sign-ins are counted: an IPv4 address, or the network of an IPv6 address, of which
    a client has many.
    """
    host = request.client.host if request.client is not None else "local"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def local_path(text: str | None) -> str:
    """Gives a path of this console to go on to, `/` for anything else."""
    if (
        not text
        or not text.startswith("/")
        or text.startswith(("//", "/\\"))
        or any(ord(char) < 33 or ord(char) == 127 for char in text)
    ):
        return "/"
    return text
