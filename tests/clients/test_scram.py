"""Checks auth.mode = scram against a real PostgreSQL: who gets in, what the others are told, and what neither of them
can find out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2
import pytest
import scramp
from tests.support.cli import secretproxy
from tests.support.log import AccessLog
from tests.support.proxy import Proxy
from tests.support.raw import message
from tests.support.tls_site import PASSWORD, Site, tls_site

USER = "with_password"
OWNER = "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2d"
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'scram', 'nothing')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with tls_site(tmp_path_factory.mktemp("scram")) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Gives a site with TLS on both sides, users looked up, two workers."""
    extra = "login_timeout = 4.0\n"
    auth = site.scram(lookup_cache=0)
    with proxied(
        site, tmp_path_factory.mktemp("proxy"), auth, 2, listen="allow", backend="verify-full", extra=extra
    ) as made:
        yield made


@pytest.fixture(scope="module")
def limited(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    auth = site.scram(failures_per_address=6, failures_per_user=20, failure_delay=0)
    with proxied(site, tmp_path_factory.mktemp("limited"), auth, 2) as made:
        yield made


@contextlib.contextmanager
def proxied(site: Site, directory: Path, auth: str, workers: int = 1, **more: str) -> Iterator[Proxy]:
    directory.mkdir(parents=True, exist_ok=True)
    made = site.proxy(
        directory,
        more.get("listen", "off"),
        more.get("backend", "off"),
        more.get("extra", ""),
        auth,
        f"workers = {workers}\n",
    )
    try:
        yield made
    finally:
        made.stop()


def dsn(proxy: Proxy, user: str = USER, password: str = PASSWORD, **more: str) -> str:
    extra = "".join(f" {name}={value}" for name, value in more.items())
    return f"host=127.0.0.1 port={proxy.port} dbname=app user={user} password='{password}' connect_timeout=20{extra}"


def logs_in(text: str) -> bool:
    with psycopg.connect(text, autocommit=True) as session:
        return session.execute("SELECT current_user").fetchone() == (USER,)


def refusal(text: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(text).close()
    return str(caught.value)


# --- by hand ---------------------------------------------------------------------------------------------------------


class Login:
    """A login step by step. `code`: the protocol; `source`: the address it comes from."""

    def __init__(
        self, port: int, user: str, *, code: int = 196608, source: str = "127.0.0.1", **parameters: str
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        given = {"user": user, "database": "app"} | parameters
        body = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in given.items()) + b"\0"
        self.sock.sendall(struct.pack("!II", len(body) + 8, code) + body)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Login:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def read(self) -> tuple[bytes, bytes]:
        head = self.file.read(5)
        if len(head) < 5:
            return b"", b""
        return head[:1], self.file.read(int.from_bytes(head[1:], "big") - 4)

    def first(self, client: scramp.ScramClient) -> str:
        """Sends the client-first-message and gives the server's."""
        data = client.get_client_first().encode()
        self.sock.sendall(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(data)) + data))
        kind, body = self.read()
        assert (kind, body[:4]) == (b"R", b"\0\0\0\x0b"), body
        return body[4:].decode()

    def final(self, client: scramp.ScramClient, challenge: str) -> tuple[bytes, bytes]:
        client.set_server_first(challenge)
        self.sock.sendall(message(b"p", client.get_client_final().encode()))
        return self.read()

    def log_in(self, password: str = PASSWORD) -> tuple[bytes, bytes]:
        """Plays the whole exchange; gives the message that answers the proof."""
        kind, body = self.read()
        assert (kind, body[:4]) == (b"R", b"\0\0\0\n"), body
        client = scramp.ScramClient(["SCRAM-SHA-256"], "anything", password)
        return self.final(client, self.first(client))

    def until_ready(self) -> list[tuple[bytes, bytes]]:
        got = []
        while not got or got[-1][0] not in (b"Z", b"E", b""):
            got.append(self.read())
        return got


def fields(body: bytes) -> dict[str, str]:
    """Gives an ErrorResponse without its place in the source."""
    parts = [part.decode() for part in body.split(b"\0") if part]
    return {part[0]: part[1:] for part in parts if part[0] not in "FLR"}


# --- who gets in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "backend"), [("users_file", "off"), ("lookup", "verify-full")])
def test_drivers_log_in(site: Site, tmp_path: Path, source: str, backend: str) -> None:
    users = tmp_path / "users"
    users.write_text(f'; a comment\n"{USER}" "{site.verifier(USER)}"\n\n"with ""quotes""" "{site.verifier(USER)}"\n')
    auth = site.scram() if source == "lookup" else f'mode = "scram"\nusers_file = "{users}"'
    with proxied(site, tmp_path / "proxy", auth, listen="allow", backend=backend) as proxy:
        for sslmode, binding in (("disable", "prefer"), ("require", "disable"), ("require", "require")):
            assert logs_in(dsn(proxy, sslmode=sslmode, channel_binding=binding, require_auth="scram-sha-256"))
        with psycopg2.connect(dsn(proxy, sslmode="require")) as session, session.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == (USER,)
        session.close()
        context = ssl.create_default_context(cafile=str(site.authority.file))
        for secured in (None, context):
            other = pg8000.dbapi.connect(
                USER, host="127.0.0.1", port=proxy.port, database="app", password=PASSWORD, ssl_context=secured
            )
            other.close()
            asyncio.run(through_asyncpg(proxy, secured))


async def through_asyncpg(proxy: Proxy, secured: ssl.SSLContext | None) -> None:
    async with asyncpg.create_pool(
        host="127.0.0.1",
        port=proxy.port,
        user=USER,
        password=PASSWORD,
        database="app",
        ssl=secured or False,
        min_size=2,
        max_size=2,
    ) as pool:
        assert await pool.fetchval("SELECT current_user") == USER
        assert await pool.fetchval(GETTER) == "nothing"


def test_the_session_is_audited_like_any(site: Site, proxy: Proxy) -> None:
    log = AccessLog(site.backend.dsn())
    with psycopg.connect(dsn(proxy, sslmode="require", application_name="scram_test"), autocommit=True) as session:
        assert session.execute(GETTER).fetchone() == ("nothing",)
        session.execute("DISCARD ALL")
        assert session.execute(GETTER).fetchone() == ("nothing",)
    rows = [row for row in log.settled() if row["application_name"] == "scram_test"]
    assert [row["event"] for row in rows].count("attempt") == 2 and all(
        row["db_user"] == USER and row["tls"] for row in rows
    )
    assert not [row for row in rows if row["event"] in ("direct", "forgery")]


class Middleman(threading.Thread):
    """Ends TLS before the backend with a certificate of the same authority, and carries what it reads there and
    back."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.backend = site.backend.port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*site.authority.pair("middleman"))

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.carry, args=(sock,), daemon=True).start()

    def carry(self, sock: socket.socket) -> None:
        request = struct.pack("!II", 8, 80877103)
        with contextlib.suppress(OSError), sock, socket.create_connection(("127.0.0.1", self.backend)) as there:
            assert sock.recv(8) == request
            sock.sendall(b"S")
            there.sendall(request)
            assert there.recv(1) == b"S"
            ours = self.context.wrap_socket(sock, server_side=True)
            theirs = ssl._create_unverified_context().wrap_socket(there)
            back = threading.Thread(target=self.pump, args=(theirs, ours), daemon=True)
            back.start()
            self.pump(ours, theirs)
            back.join(60)

    @staticmethod
    def pump(one: ssl.SSLSocket, other: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


def test_the_login_at_the_backend_is_bound_to_its_certificate(site: Site, tmp_path: Path) -> None:
    """Somebody between proxy and backend who has a certificate that verifies gets nothing out of it."""
    middleman = Middleman(site)
    middleman.start()
    made = site.proxy(tmp_path, backend="verify-full", auth=site.scram())
    made.stop()
    made.config.write_text(
        made.config.read_text().replace(
            f'hosts = ["{site.backend.address}"]', f'hosts = ["127.0.0.1:{middleman.port}"]'
        )
    )
    made.start()
    try:
        assert "SCRAM channel binding check failed" in refusal(dsn(made))
        # It carries what is not bound: a login that the backend does not ask for.
        psycopg.connect(dsn(made, "app_user")).close()
    finally:
        made.stop()
        middleman.listener.close()


def test_a_backend_that_trusts_and_one_that_asks_for_something_else(site: Site, proxy: Proxy) -> None:
    with psycopg.connect(dsn(proxy, "app_user")) as session:
        assert session.execute("SELECT current_user").fetchone() == ("app_user",)
    assert "asks for a password in clear, which auth.mode = scram" in refusal(dsn(proxy, "in_clear"))
    assert "pg_hba.conf rejects connection" in refusal(dsn(proxy, "kept_out"))
    # Its verifier is an MD5 one: nothing to hold an exchange with.
    assert 'password authentication failed for user "by_md5"' in refusal(dsn(proxy, "by_md5"))
    assert 'database "nowhere" does not exist' in refusal(dsn(proxy, dbname="nowhere"))
    assert logs_in(dsn(proxy))


def test_replication_connections(site: Site, proxy: Proxy) -> None:
    for kind in ("database", "true"):
        session = psycopg.pq.PGconn.connect(dsn(proxy, replication=kind).encode())
        assert session.status == psycopg.pq.ConnStatus.OK, session.error_message
        found = session.exec_(b"IDENTIFY_SYSTEM")
        assert found.status == psycopg.pq.ExecStatus.TUPLES_OK and found.ntuples == 1
        session.finish()


def needs_protocol_3_2(site: Site) -> None:
    server = site.backend.server
    assert server is not None
    if server.binaries.major < 18:
        pytest.skip(f"PostgreSQL {server.binaries.version} does not speak protocol 3.2")
    if psycopg.pq.version() < 180000:
        pytest.skip(f"libpq {psycopg.pq.version()} does not speak protocol 3.2")


def test_protocol_3_2_and_cancelling_with_its_long_key(site: Site, proxy: Proxy) -> None:
    """A cancel request works from whichever worker it comes to."""
    needs_protocol_3_2(site)
    with psycopg.connect(dsn(proxy, sslmode="require", min_protocol_version="3.2"), autocommit=True) as session:
        assert session.pgconn.full_protocol_version == 30002
        for _ in range(6):
            threading.Timer(0.1, session.cancel_safe).start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                session.execute("SELECT pg_sleep(30)")


def test_what_the_backend_says_of_the_protocol_comes_before_the_exchange(site: Site, proxy: Proxy) -> None:
    needs_protocol_3_2(site)
    with Login(proxy.port, USER, code=196608 + 9, **{"_pq_.unheard_of": "1"}) as login:
        kind, body = login.read()
        assert kind == b"v" and body[:4] == struct.pack("!I", 196610) and b"_pq_.unheard_of" in body
        assert login.log_in()[1][:4] == b"\0\0\0\x0c"
        assert login.until_ready()[-1] == (b"Z", b"I")
    with Login(proxy.port, USER) as login:
        assert login.read()[0] == b"R"


# --- who does not, and what he learns
# ----------------------------------------------------------------------------------


def test_a_failed_login_is_answered_as_postgresql_answers_it(site: Site, proxy: Proxy) -> None:
    for user in (USER, "nobody at all"):
        with Login(proxy.port, user) as login:
            kind, body = login.log_in("wrong")
            assert kind == b"E" and login.read() == (b"", b"")
            answer = fields(body)
        assert answer == {
            "S": "FATAL",
            "V": "FATAL",
            "C": "28P01",
            "M": f'password authentication failed for user "{user}"',
        }
    with Login(site.backend.port, USER) as direct:
        assert fields(direct.log_in("wrong")[1]) == answer | {"M": answer["M"].replace("nobody at all", USER)}


def test_a_name_that_nobody_has_is_not_logged_and_neither_is_anything_of_an_exchange(site: Site, proxy: Proxy) -> None:
    slip = "hunter2-typed-into-the-wrong-field"
    refusal(dsn(proxy, slip, "wrong"))
    refusal(dsn(proxy, USER, "wrong"))
    assert logs_in(dsn(proxy))
    text = proxy.text()
    assert slip not in text and "masked:" in text and f"user={USER}" in text
    salt_and_keys = site.verifier(USER).replace("$", ":").split(":")[2:]
    assert len(salt_and_keys) == 3 and not [part for part in [*salt_and_keys, PASSWORD] if part in text]


def test_an_unknown_users_exchange_is_that_of_a_known_one(site: Site, tmp_path: Path) -> None:
    """An unknown user meets the same steps, the same kind of challenge at every try, over workers and restarts, and the
    same time."""
    with proxied(site, tmp_path, site.scram(failure_delay=0), workers=2) as proxy:
        challenges = {}
        for user in (USER, "nobody", "nobody else"):
            seen = set()
            for _ in range(6):
                with Login(proxy.port, user) as login:
                    offered = login.read()
                    assert offered == (b"R", b"\0\0\0\nSCRAM-SHA-256\0\0")
                    nonce, salt, iterations = login.first(scramp.ScramClient(["SCRAM-SHA-256"], "x", "y")).split(",")
                    seen.add((salt, iterations, len(nonce)))
            assert len(seen) == 1
            challenges[user] = seen.pop()
        assert len({salt for salt, _, _ in challenges.values()}) == 3
        assert len({(len(salt), iterations, length) for salt, iterations, length in challenges.values()}) == 1
        proxy.stop()
        proxy.start()
        with Login(proxy.port, "nobody") as login:
            login.read()
            assert login.first(scramp.ScramClient(["SCRAM-SHA-256"], "x", "y")).split(",")[1] == challenges["nobody"][0]


@pytest.mark.parametrize("source", ["users_file", "lookup"])
def test_an_unknown_user_takes_as_long_as_one_who_has_just_logged_in(site: Site, tmp_path: Path, source: str) -> None:
    users = tmp_path / "users"
    users.write_text(f'"{USER}" "{site.verifier(USER)}"\n')
    # A look-up that takes its time: were an answer out of memory any sooner, it would show.
    slow = "SELECT rolname, rolpassword FROM pg_sleep(0.02) LEFT JOIN pg_authid ON rolname = $1"
    auth = (
        site.scram(failure_delay=0, lookup_query=slow)
        if source == "lookup"
        else f'mode="scram"\nusers_file="{users}"\nfailure_delay=0\nfailures_per_address=0'
    )
    with proxied(site, tmp_path / "proxy", auth) as proxy:
        took: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(88):
            known = turn % 2 == 0
            # Remembered, as the verifier of a user who is at work is.
            assert logs_in(dsn(proxy))
            with Login(proxy.port, USER if known else f"nobody {turn}") as login:
                login.read()
                client = scramp.ScramClient(["SCRAM-SHA-256"], "x", "y")
                began = time.perf_counter()
                challenge = login.first(client)
                middle = time.perf_counter()
                client.set_server_first(challenge)
                proof = message(b"p", client.get_client_final().encode())
                again = time.perf_counter()
                login.sock.sendall(proof)
                assert login.read()[0] == b"E"
                if turn >= 8:
                    took[known].append(middle - began + time.perf_counter() - again)
        # How often one of these takes longer than one of those: half the time where they are alike, at five standard
        # deviations.
        later = statistics.fmean(one > other for one in took[False] for other in took[True])
        assert 0.2 < later < 0.8, (later, statistics.median(took[True]), statistics.median(took[False]))


def test_a_client_that_says_nothing_or_nonsense(site: Site, proxy: Proxy) -> None:
    with Login(proxy.port, USER) as silent:
        silent.read()
        with psycopg.connect(dsn(proxy), autocommit=True) as beside:
            for said, text in (
                (message(b"Q", b"SELECT 1\0"), "expected SASL response, got message type 81"),
                (
                    message(b"p", b"SCRAM-SHA-1\0\xff\xff\xff\xff"),
                    "client selected an invalid SASL authentication mechanism",
                ),
                (
                    message(b"p", b"SCRAM-SHA-256-PLUS\0\xff\xff\xff\xff"),
                    "client selected an invalid SASL authentication mechanism",
                ),
                (message(b"p", b"SCRAM-SHA-256\0\0\0\0\1n,,"), "invalid message format"),
                (message(b"p", b"no terminator"), "no terminator"),
                (b"p\xff\xff\xff\xff", "invalid message length"),
                (b"p\0\1\0\0", "invalid message length"),
                (message(b"p", b"SCRAM-SHA-256\0\0\0\0\3n,,"), "malformed SCRAM message"),
            ):
                with Login(proxy.port, USER) as login:
                    login.read()
                    login.sock.sendall(said)
                    kind, body = login.read()
                    assert kind == b"E" and text in fields(body)["M"]
                    assert login.read() == (b"", b"")
            with Login(proxy.port, USER) as login:
                # No initial response: an empty challenge asks for it.
                login.read()
                login.sock.sendall(message(b"p", b"SCRAM-SHA-256\0\xff\xff\xff\xff"))
                assert login.read() == (b"R", b"\0\0\0\x0b")
            assert beside.execute("SELECT 1").fetchone() == (1,)
        kind, body = silent.read()
        assert kind == b"E" and "listen.login_timeout" in fields(body)["M"]
    assert "internal error" not in proxy.text() and "Traceback" not in proxy.text()


def test_pieces_and_early_queries(site: Site, proxy: Proxy) -> None:
    """A login may trickle in, with its first query behind its proof."""
    with Login(proxy.port, USER) as login:
        login.read()
        client = scramp.ScramClient(["SCRAM-SHA-256"], "x", PASSWORD)
        data = client.get_client_first().encode()
        for byte in message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(data)) + data):
            login.sock.sendall(bytes([byte]))
        client.set_server_first(login.read()[1][4:].decode())
        login.sock.sendall(message(b"p", client.get_client_final().encode()) + message(b"Q", b"SELECT 4711\0"))
        got = login.until_ready() + login.until_ready()
        assert (b"D", b"\0\1\0\0\0\x044711") in got


# --- rate ------------------------------------------------------------------------------------------------------------


def test_failures_are_limited_by_address_over_all_workers(limited: Proxy) -> None:
    answers = []
    for turn in range(12):
        with Login(limited.port, f"nobody {turn}", source="127.0.0.100") as login:
            kind, body = login.read()
            if kind == b"R":
                client = scramp.ScramClient(["SCRAM-SHA-256"], "x", "wrong")
                kind, body = login.final(client, login.first(client))
            answers.append(fields(body)["C"])
    assert answers == ["28P01"] * 6 + ["28000"] * 6
    # The right password does not help from there, and nobody else is disturbed.
    with Login(limited.port, USER, source="127.0.0.100") as login:
        assert fields(login.read()[1])["M"].startswith("too many failed logins")
    assert logs_in(dsn(limited))
    assert "too many have failed" in limited.text() and "auth.failures_per_address" in limited.text()


def test_guesses_from_many_addresses_do_not_lock_the_user_out(limited: Proxy) -> None:
    assert logs_in(dsn(limited))
    answers = []
    for place in range(2, 10):
        for _ in range(3):
            with Login(limited.port, USER, source=f"127.0.0.{place}") as login:
                kind, body = login.read()
                if kind == b"R":
                    client = scramp.ScramClient(["SCRAM-SHA-256"], "x", "wrong")
                    kind, body = login.final(client, login.first(client))
                answers.append(fields(body)["C"])
    assert answers == ["28P01"] * 20 + ["28000"] * 4
    # Where the user has logged in from before, and everybody else.
    assert logs_in(dsn(limited))
    with psycopg.connect(dsn(limited, "app_user")) as session:
        assert session.execute("SELECT current_user").fetchone() == ("app_user",)


def test_many_guesses_at_once_are_counted(limited: Proxy) -> None:
    """All exchanges are begun before the first fails; workers may judge one each at the same moment."""
    with contextlib.ExitStack() as stack:
        begun = []
        for _ in range(20):
            login = stack.enter_context(Login(limited.port, "nobody", source="127.0.0.101"))
            login.read()
            client = scramp.ScramClient(["SCRAM-SHA-256"], "x", "wrong")
            begun.append((login, client, login.first(client)))
        codes = [fields(login.final(client, challenge)[1])["C"] for login, client, challenge in begun]
        assert codes.count("28P01") == 6 and codes.count("28000") == 14


def test_the_delay_of_a_failure_delays_nobody_else(site: Site, tmp_path: Path) -> None:
    with proxied(site, tmp_path, site.scram(failure_delay=6.0)) as proxy, Login(proxy.port, USER) as failing:
        failing.read()
        client = scramp.ScramClient(["SCRAM-SHA-256"], "x", "wrong")
        client.set_server_first(failing.first(client))
        began = time.monotonic()
        failing.sock.sendall(message(b"p", client.get_client_final().encode()))
        for _ in range(3):
            assert logs_in(dsn(proxy))
        assert time.monotonic() - began < 6
        assert failing.read()[0] == b"E" and time.monotonic() - began >= 5.9


# --- verifiers that change -------------------------------------------------------------------------------------------


def test_a_users_file_that_is_out_of_date(site: Site, tmp_path: Path) -> None:
    users = tmp_path / "users"
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE changing LOGIN PASSWORD '{PASSWORD}'")
        rules = site.backend.server.data / "pg_hba.conf"  # type: ignore[union-attr]
        rules.write_text(f"host all changing 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        admin.execute("SELECT pg_reload_conf()")
    users.write_text(f'"changing" "{site.verifier("changing")}"\n')
    with proxied(site, tmp_path / "proxy", f'mode = "scram"\nusers_file = "{users}"') as proxy:
        with psycopg.connect(dsn(proxy, "changing")) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
        with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
            # The same password, and another salt: no key of the old verifier fits.
            admin.execute(f"ALTER ROLE changing PASSWORD '{PASSWORD}'")
        text = refusal(dsn(proxy, "changing"))
        assert "the backend holds another password for this user than secretproxy" in text and "auth.users_file" in text
        proxy.wait_for_text("another verifier for a user")
        users.write_text("nonsense\n")
        proxy.send_signal("HUP")
        proxy.wait_for_text("users not read again, the old ones stay")
        assert "nonsense" not in proxy.text()
        users.write_text(f'"changing" "{site.verifier("changing")}"\n')
        proxy.send_signal("HUP")
        proxy.wait_for_text("reloaded", 2)
        with psycopg.connect(dsn(proxy, "changing")) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_password_that_is_changed_while_it_is_remembered(site: Site, tmp_path: Path) -> None:
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        admin.execute(
            "CREATE ROLE renewed LOGIN PASSWORD 'first'; CREATE ROLE expired LOGIN PASSWORD 'first' VALID UNTIL '2001-01-01'"
        )
    with proxied(site, tmp_path, site.scram(lookup_cache=600)) as proxy:
        psycopg.connect(dsn(proxy, "renewed", "first")).close()
        with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
            admin.execute("ALTER ROLE renewed PASSWORD 'second'")
        # One login on the old verifier fails and has it looked up anew.
        refusal(dsn(proxy, "renewed", "second"))
        psycopg.connect(dsn(proxy, "renewed", "second")).close()
        assert "password authentication failed" in refusal(dsn(proxy, "expired", "first"))


def test_users_that_cannot_be_looked_up(site: Site, tmp_path: Path) -> None:
    elsewhere = site.scram(lookup_query="SELECT 1, passwd FROM no_such_table WHERE usename = $1")
    with proxied(site, tmp_path, elsewhere) as proxy:
        text = refusal(dsn(proxy))
        assert "the proxy cannot look up its users now" in text and "auth.lookup_dsn" in text
        assert "42P01" in proxy.text() and "no_such_table" not in proxy.text()


def test_the_look_ups_connection_is_made_anew(site: Site, proxy: Proxy) -> None:
    assert logs_in(dsn(proxy))
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        gone = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'secretproxy lookup'"
        ).fetchone()
        assert gone is not None and gone[0] >= 1
    assert logs_in(dsn(proxy))


# --- backends that lie -----------------------------------------------------------------------------------------------


class Impostor(threading.Thread):
    """A server that takes any proof: it does not know the user's verifier, only its salt."""

    def __init__(self, salt: str, iterations: str) -> None:
        super().__init__(daemon=True)
        self.salt, self.iterations = salt, iterations
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got = b""

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                with sock, contextlib.suppress(OSError):
                    self.log_in(sock)

    def log_in(self, sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(message(b"R", b"\0\0\0\nSCRAM-SHA-256\0\0"))
        _, found, nonce = sock.recv(4096).partition(b"r=")
        if not found:
            return  # whoever only looks whether a server answers
        challenge = b"r=" + nonce + b"abc,s=" + self.salt.encode() + b",i=" + self.iterations.encode()
        sock.sendall(message(b"R", b"\0\0\0\x0b" + challenge))
        self.got = sock.recv(4096)
        sock.sendall(
            message(b"R", b"\0\0\0\x0cv=" + b"A" * 43 + b"=") + message(b"R", b"\0\0\0\0") + message(b"Z", b"I")
        )
        sock.recv(4096)


def test_a_server_that_does_not_know_the_user_is_not_given_the_session(site: Site, tmp_path: Path) -> None:
    _, iterations, salt, *_ = site.verifier(USER).replace("$", ":").split(":")
    impostor = Impostor(salt, iterations)
    impostor.start()
    made = Proxy(
        tmp_path,
        f"127.0.0.1:{impostor.port}",
        site.backend.dsn("journal"),
        site.backend.key_file,
        f"[auth]\n{site.scram()}\n",
    )
    made.start()
    try:
        assert "the backend could not prove that it knows the user" in refusal(dsn(made))
        assert PASSWORD.encode() not in impostor.got
    finally:
        made.stop()
        impostor.listener.close()


# --- check -----------------------------------------------------------------------------------------------------------


def checked(proxy: Proxy) -> tuple[int, dict[str, str | None]]:
    done = secretproxy(["check", "--json", "--config", str(proxy.config)])
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {found["check"]: found["fault"] for found in json.loads(done.stdout)}


def test_check_tries_what_the_settings_name(site: Site, proxy: Proxy, tmp_path: Path) -> None:
    status, found = checked(proxy)
    assert status == 0 and found["auth"] is None and found[f"backend.hosts {site.backend.address}"] is None
    # A look-up that fails, an authority that did not sign, a kind that no server is.
    wrong = Proxy(tmp_path, site.backend.address, site.backend.dsn("journal"), site.backend.key_file)
    text = wrong.config.read_text()
    stranger = text.replace("[audit]", f'tls = "verify-full"\ntls_ca = "{site.stranger.file}"\n[audit]')
    wrong.config.write_text(f"{stranger}[auth]\n{site.scram(lookup_dsn='postgresql://nobody@127.0.0.1:1/app')}\n")
    status, found = checked(wrong)
    assert status == 1 and "does not verify" in str(found[f"backend.hosts {site.backend.address}"])
    assert "auth.lookup_dsn" in str(found["auth"])
    wrong.config.write_text(text.replace("[audit]", 'target_session_attrs = "standby"\n[audit]'))
    status, found = checked(wrong)
    assert status == 1 and "it is a primary" in str(found["backend.target_session_attrs"])
