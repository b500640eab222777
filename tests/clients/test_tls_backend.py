"""Checks TLS as it is used: servers that answer an SSLRequest in strange ways, names, certificates of both kinds, bulk,
and many connections."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.support.log import AccessLog
from tests.support.proxy import Proxy
from tests.support.raw import message
from tests.support.tls_site import PASSWORD, Site, tls_site

from secretproxy.config import BackendSettings, Host
from secretproxy.proxy.backend.connect import AddressUnreachableError, Target, reach
from secretproxy.proxy.backend.tls import BackendTls, backend_context

SSL_REQUEST = struct.pack("!II", 8, 80877103)
CONNECTS = int(os.environ.get("TLS_CONNECTS", "150"))
BULK_ROWS = int(os.environ.get("TLS_BULK_ROWS", "60000"))


# Logins that are let in on one kind of connection alone.
KINDS = {"only_tls": "hostssl", "only_clear": "hostnossl", "only_plain": "hostnogssenc"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with tls_site(tmp_path_factory.mktemp("tls")) as made:
        with psycopg.connect(made.backend.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE by_cert LOGIN PASSWORD '{PASSWORD}'")
            server = made.backend.server
            assert server is not None
            authority = server.data / "authority.crt"
            shutil.copy(made.authority.file, authority)
            authority.chmod(0o644)
            admin.execute("ALTER SYSTEM SET ssl_ca_file = 'authority.crt'")
            rules = server.data / "pg_hba.conf"
            kept = "".join(
                f"{kind} all {login} 127.0.0.1/32 trust\nhost all {login} 127.0.0.1/32 reject\n"
                for login, kind in KINDS.items()
            )
            rules.write_text(
                f"hostssl all by_cert 127.0.0.1/32 cert\nhost all by_cert 127.0.0.1/32 reject\n{kept}{rules.read_text()}"
            )
            for login in KINDS:
                admin.execute(f"CREATE ROLE {login} LOGIN; GRANT authenticated TO {login}")
            admin.execute("SELECT pg_reload_conf()")
        yield made


@pytest.fixture(scope="module")
def secured(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Gives a site with TLS on both sides, and a certificate of the proxy's own towards the backend, which asks by_cert
    for it."""
    made = site.proxy(tmp_path_factory.mktemp("secured"), "allow", "verify-full", auth=site.scram())
    made.stop()
    certificate, key = site.authority.pair("by_cert", None)
    made.config.write_text(
        made.config.read_text().replace("[audit]", f'tls_cert = "{certificate}"\ntls_key = "{key}"\n[audit]')
    )
    made.start()
    yield made
    made.stop()


def dsn(proxy: Proxy, user: str = "with_password", **more: str) -> str:
    extra = "".join(f" {name}={value}" for name, value in more.items())
    return f"host=127.0.0.1 port={proxy.port} dbname=app user={user} password='{PASSWORD}' connect_timeout=20{extra}"


# --- a server's answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "cause"),
    [
        ([b"S" + message(b"R", b"\0\0\0\0")], "answered an SSLRequest with something else"),
        ([b"S", message(b"R", b"\0\0\0\0")], "TLS failed"),
        ([b"N"], "does not speak TLS"),
        ([b"N" + message(b"R", b"\0\0\0\0")], "answered an SSLRequest with something else"),
        ([b"E" + b"\0\0\0\x08no\0\0"], "answered an SSLRequest with something else"),
        ([], "closed the connection"),
    ],
)
async def test_nothing_is_taken_from_before_the_handshake(answers: list[bytes], cause: str) -> None:
    """CVE-2021-23222: what somebody slips in behind the S would be read as if the server had said it in TLS."""
    got = b""

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        assert await reader.readexactly(8) == SSL_REQUEST
        for answer in answers:
            writer.write(answer)
            await writer.drain()
            await asyncio.sleep(0.05)
        if answers:
            got = await reader.read()
        writer.close()

    async with await asyncio.start_server(server, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        target = Target(Host(host="127.0.0.1", port=port), "127.0.0.1")
        tls = BackendTls(backend_context(BackendSettings(tls="require")), required=True)
        with pytest.raises(AddressUnreachableError, match=cause):
            await reach(asyncio.Protocol, target, 5, tls)
    # A ClientHello at most, never a startup packet.
    assert got[:1] in (b"", b"\x16")


class Listening(threading.Thread):
    """Takes TLS connections and keeps the name that each was begun with."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(daemon=True)
        self.names: list[str | None] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.context.sni_callback = self.named
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def named(self, _: object, name: str | None, __: object) -> None:
        self.names.append(name)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                with contextlib.suppress(OSError), sock:
                    sock.recv(8)
                    sock.sendall(b"S")
                    self.context.wrap_socket(sock, server_side=True).close()


async def test_names_are_told_and_checked_and_addresses_are_not_told(site: Site) -> None:
    listening = Listening(*site.authority.pair("listening"))
    listening.start()
    tls = BackendTls(backend_context(BackendSettings(tls="verify-full", tls_ca=site.authority.file)), required=True)
    for name in ("localhost", "127.0.0.1"):
        await reach(asyncio.Protocol, Target(Host(host=name, port=listening.port), "127.0.0.1"), 5, tls)
    with pytest.raises(AddressUnreachableError, match="does not verify"):
        await reach(asyncio.Protocol, Target(Host(host="another.name", port=listening.port), "127.0.0.1"), 5, tls)
    assert listening.names == ["localhost", None, "another.name"]
    # A context that is given the name itself checks it where whoever connects says an address.
    for server_name, fits in (("localhost", True), ("another.name", False)):
        named = backend_context(BackendSettings(tls="verify-full", tls_ca=site.authority.file), server_name)
        target = Target(Host(host="127.0.0.1", port=listening.port), "127.0.0.1")
        with contextlib.nullcontext() if fits else pytest.raises(AddressUnreachableError, match="does not verify"):
            await reach(asyncio.Protocol, target, 5, BackendTls(named, required=True))
    listening.listener.close()


# --- certificates ----------------------------------------------------------------------------------------------------


def test_the_proxys_own_certificate_logs_in_where_the_backend_asks_for_one(site: Site, secured: Proxy) -> None:
    with psycopg.connect(
        dsn(secured, "by_cert", sslmode="require", channel_binding="require"), autocommit=True
    ) as session:
        assert session.execute("SELECT current_user").fetchone() == ("by_cert",)
    # The certificate is for that name alone, and the password is asked for all the same.
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn(secured, "by_cert").replace(PASSWORD, "wrong"))


@pytest.fixture(scope="module")
def legs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """Gives proxies that take clients in TLS and in clear text, and go on in one of the two; in TLS with a certificate
    of by_cert's name."""
    made = {leg: site.proxy(tmp_path_factory.mktemp(leg), "allow", leg) for leg in ("off", "require")}
    tls = made["require"]
    tls.stop()
    certificate, key = site.authority.pair("by_cert", None)
    tls.config.write_text(
        tls.config.read_text().replace("[audit]", f'tls_cert = "{certificate}"\ntls_key = "{key}"\n[audit]')
    )
    tls.start()
    yield made
    for proxy in made.values():
        proxy.stop()


def own_leg(proxy: Proxy, user: str, sslmode: str, **more: str) -> tuple[object, ...]:
    """Gives what the server sees of a session, and what the log says of how its client came."""
    with psycopg.connect(dsn(proxy, user, sslmode=sslmode, **more), autocommit=True) as session:
        assert session.pgconn.ssl_in_use == (sslmode != "disable")
        row = session.execute(
            "SELECT s.ssl, s.client_dn, g.gss_authenticated, g.encrypted FROM pg_stat_ssl s JOIN pg_stat_gssapi g USING (pid)"
            " WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_what_the_server_sees_is_the_proxys_own_leg(site: Site, legs: dict[str, Proxy], sslmode: str) -> None:
    """docs/transparency.md: pg_stat_ssl and pg_stat_gssapi say nothing of how the client came; the log's column tls
    does."""
    log = AccessLog(site.backend.dsn())
    assert own_leg(legs["off"], "app_user", sslmode) == (False, None, False, False)
    assert own_leg(legs["require"], "app_user", sslmode) == (True, "/CN=by_cert", False, False)
    for leg, proxy in legs.items():
        application = f"leg-{leg}-{sslmode}"
        with psycopg.connect(
            dsn(proxy, "app_user", sslmode=sslmode, application_name=application), autocommit=True
        ) as session:
            session.execute("SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'n')")
        rows = log.settled(application)
        assert rows and {row["tls"] for row in rows} == {sslmode == "require"}


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_rules_of_the_server_meet_the_proxys_own_leg(legs: dict[str, Proxy], sslmode: str) -> None:
    """A client in clear text gets in by a hostssl rule, and one in TLS by a hostnossl rule: listen.tls is what keeps
    clients out."""
    for leg, let_in, kept_out in (("off", "only_clear", "only_tls"), ("require", "only_tls", "only_clear")):
        assert own_leg(legs[leg], let_in, sslmode)[0] == (leg == "require")
        with pytest.raises(psycopg.OperationalError, match="rejects connection"):
            psycopg.connect(dsn(legs[leg], kept_out, sslmode=sslmode))
        assert own_leg(legs[leg], "only_plain", sslmode, gssencmode="prefer")[3] is False


def test_listen_tls_keeps_clients_in_clear_text_out(site: Site, tmp_path: Path) -> None:
    proxy = site.proxy(tmp_path, "require", "require")
    try:
        assert own_leg(proxy, "only_tls", "require")[0] is True
        with pytest.raises(psycopg.OperationalError, match="TLS"):
            psycopg.connect(dsn(proxy, "only_tls", sslmode="disable"))
    finally:
        proxy.stop()


def test_a_certificate_login_proves_the_proxys_certificate_alone(site: Site, legs: dict[str, Proxy]) -> None:
    """Whoever reaches the proxy is let in as by_cert by a rule `cert`, without a certificate, in clear text and with
    another's."""
    certificate, key = site.authority.pair("somebody_else", None)
    another = {"sslcert": str(certificate), "sslkey": str(key)}
    for more in ({"sslmode": "disable"}, {"sslmode": "require"}, {"sslmode": "require", **another}):
        with psycopg.connect(dsn(legs["require"], "by_cert", **more).replace(f"password='{PASSWORD}'", "")) as session:
            row = session.execute(
                "SELECT current_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ).fetchone()
            assert row == ("by_cert", "/CN=by_cert")
    # The certificate that lets its client in directly is of no use through a proxy that has none.
    own = {
        "sslmode": "require",
        "sslcert": str(site.directory / "by_cert.crt"),
        "sslkey": str(site.directory / "by_cert.key"),
    }
    psycopg.connect(site.backend.dsn("by_cert"), **own).close()
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(dsn(legs["off"], "by_cert", **own))


def test_with_the_backends_own_certificate_channel_binding_is_relayed(site: Site, tmp_path: Path) -> None:
    made = site.proxy(tmp_path, "require", "verify-full")
    made.stop()
    text = made.config.read_text()
    for kind in ("crt", "key"):
        text = text.replace(f"{site.directory}/proxy.{kind}", f"{site.directory}/server.{kind}")
    made.config.write_text(text)
    made.start()
    try:
        with psycopg.connect(dsn(made, sslmode="require", channel_binding="require")) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
    finally:
        made.stop()


def test_a_renewed_certificate_is_what_logins_are_bound_to(site: Site, tmp_path: Path) -> None:
    for kind in ("crt", "key"):
        shutil.copy(site.directory / f"proxy.{kind}", tmp_path / f"own.{kind}")
    own = f'tls = "require"\ntls_cert = "{tmp_path}/own.crt"\ntls_key = "{tmp_path}/own.key"\n'
    made = site.proxy(tmp_path / "proxy", extra=own, auth=site.scram())
    bound = dsn(made, sslmode="verify-full", sslrootcert=str(site.authority.file), channel_binding="require")
    try:
        psycopg.connect(bound).close()
        before = served(site, made)
        for path, kind in zip(site.authority.pair("renewed"), ("crt", "key"), strict=True):
            shutil.copy(path, tmp_path / f"own.{kind}")
        made.send_signal("HUP")
        made.wait_for_text("reloaded")
        assert served(site, made) != before
        psycopg.connect(bound).close()
    finally:
        made.stop()


def wrapped(site: Site, proxy: Proxy, version: ssl.TLSVersion, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    context = SAME.setdefault((proxy.port, version), ssl.create_default_context(cafile=str(site.authority.file)))
    context.maximum_version = version
    plain = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    return context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)


SAME: dict[tuple[int, ssl.TLSVersion], ssl.SSLContext] = {}


def served(site: Site, proxy: Proxy) -> object:
    with wrapped(site, proxy, ssl.TLSVersion.TLSv1_3) as sock:
        return (sock.getpeercert() or {})["serialNumber"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed(site: Site, secured: Proxy, version: ssl.TLSVersion) -> None:
    """There are no session tickets, as with PostgreSQL: a ticket would let a certificate be used after its authority
    was taken away."""
    body = b"user\0app_user\0database\0app\0\0"
    with wrapped(site, secured, version) as sock:
        sock.sendall(struct.pack("!II", len(body) + 8, 196608) + body)
        assert sock.recv(1) == b"R"
        session = sock.session
        assert session is None or not session.has_ticket
        # One that ends as it should stays in OpenSSL's memory.
        sock.recv(65536)
        sock.unwrap().close()
    with wrapped(site, secured, version, session) as sock:
        assert not sock.session_reused


# --- traffic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_bulk_both_ways_is_what_was_sent(site: Site, secured: Proxy, negotiation: str) -> None:
    """COPY runs out and in with rows of a kilobyte, and a reader that dawdles."""
    if psycopg.pq.version() < 170000 and negotiation == "direct":
        pytest.skip(f"libpq {psycopg.pq.version()} knows no direct negotiation")
    with psycopg.connect(
        dsn(secured, "app_user", sslmode="require", sslnegotiation=negotiation), autocommit=True
    ) as session:
        out = hashlib.sha256()
        rows = f"SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, {BULK_ROWS}) i"
        with session.cursor().copy(f"COPY ({rows}) TO STDOUT") as copy:
            pieces = []
            for number, piece in enumerate(copy):
                if number == 100:
                    threading.Event().wait(0.3)
                pieces.append(bytes(piece))
                out.update(piece)
        session.execute("CREATE TEMP TABLE there (i int, text text)")
        with session.cursor().copy("COPY there FROM STDIN") as copy:
            for piece in pieces:
                copy.write(piece)
        back = hashlib.sha256()
        with session.cursor().copy("COPY (SELECT * FROM there ORDER BY i) TO STDOUT") as copy:
            for piece in copy:
                back.update(piece)
        assert back.digest() == out.digest() and len(pieces) == BULK_ROWS


def descriptors(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{proxy.pid}/fd"))


def test_many_connections_leave_nothing_behind(site: Site, secured: Proxy) -> None:
    def once(_: int) -> None:
        psycopg.connect(dsn(secured, "with_password", sslmode="require")).close()

    once(0)
    before = descriptors(secured)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(once, range(CONNECTS)))
    for _ in range(100):
        if descriptors(secured) <= before + 1:
            break
        threading.Event().wait(0.05)
    assert descriptors(secured) <= before + 1
    assert "Traceback" not in secured.text() and "internal error" not in secured.text()


def test_a_client_that_says_no_more_still_gets_its_answers(site: Site, tmp_path: Path) -> None:
    """Half a connection is closed in clear, with TLS behind: the backend, which cannot be told so by TLS, ends after
    what it was asked."""
    made = site.proxy(tmp_path, "off", "verify-full")
    body = b"user\0app_user\0database\0app\0\0"
    try:
        for early in (False, True):
            with socket.create_connection(("127.0.0.1", made.port), timeout=20) as sock:
                sock.sendall(struct.pack("!II", len(body) + 8, 196608) + body)
                got = b""
                while not early and not got.endswith(b"Z\0\0\0\x05I"):
                    got += sock.recv(65536)
                sock.sendall(
                    message(b"Q", b"SELECT repeat('x', 1000000)\0") + message(b"Q", b"SELECT 'the ' || 'end'\0")
                )
                sock.shutdown(socket.SHUT_WR)
                got = b""
                while part := sock.recv(65536):
                    got += part
                assert got.count(b"x" * 1000) == 1000 and b"the end" in got and got.endswith(b"Z\0\0\0\x05I")
    finally:
        made.stop()
