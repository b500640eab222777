"""Checks TLS on both sides, with libpq, psql and a client made of sockets; every combination has a kept result.

The table is tls_matrix.txt; TEST_WRITE_TLS_MATRIX=1 writes it anew, by the rules: what is found is compared with it and
never kept."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import ssl
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.command import run
from tests.support.log import AccessLog
from tests.support.proxy import Proxy
from tests.support.tls_site import PASSWORD, Site, tls_site

KEPT = Path(__file__).with_name("tls_matrix.txt")
SSL_REQUEST = struct.pack("!II", 8, 80877103)
OWNER = "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2c"
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'tls', 'nothing')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with tls_site(tmp_path_factory.mktemp("tls")) as made:
        yield made


def attempt(site: Site, proxy: Proxy, user: str, sslmode: str, negotiation: str, binding: str) -> str:
    """Gives `ok` and what the session is wrapped in, or what kind of refusal came."""
    try:
        with psycopg.connect(
            host="127.0.0.1", port=proxy.port, dbname="app", user=user, password=PASSWORD, sslmode=sslmode, sslnegotiation=negotiation,
            channel_binding=binding, sslrootcert=str(site.authority.file), gssencmode="disable", connect_timeout=10,
        ) as session:  # fmt: skip
            assert session.execute("SELECT 1").fetchone() == (1,)
            return "ok, TLS" if session.pgconn.ssl_in_use else "ok, clear"
    except psycopg.OperationalError as error:
        text = str(error)
        for words, kind in {
            "weak sslmode": "refused by libpq: direct negotiation needs sslmode=require or more",
            "must use TLS": "refused by the proxy: TLS is required",
            "server does not support SSL": "refused by libpq: the proxy has no TLS",
            "channel binding required": "refused by libpq: channel binding is not offered",
            "channel binding is required": "refused by libpq: channel binding is not offered",
            "SCRAM channel binding check failed": "refused by the backend: channel binding does not fit",
            "server closed the connection": "refused by the proxy: TLS is off",
            "wrong version number": "refused by the proxy: TLS is off",
            "unexpected eof while reading": "refused by the proxy: TLS is off",
            "over a non-SSL connection": "refused by libpq: channel binding offered outside TLS",
            "direct SSL": "refused by the proxy: TLS is off",
            "invalid length of startup packet": "refused by the proxy: TLS is off",
        }.items():
            if words in text:
                return kind
        return f"refused: {text.splitlines()[0][-90:]}"


@dataclass(frozen=True)
class Cell:
    mode: str
    listen: str
    backend: str
    user: str
    sslmode: str
    negotiation: str
    binding: str

    def line(self, result: str) -> str:
        return (
            f"{self.mode:12} {self.listen:11} {self.backend:12} {self.user:14} {self.sslmode:12} {self.negotiation:15} "
            f"{self.binding:16} {result}"
        )

    def expected(self) -> str:
        """Tells what comes of it by the rules of libpq, of PostgreSQL and of the settings, and by nothing that was ever
        measured."""
        if self.negotiation == "direct" and self.sslmode in ("disable", "prefer"):
            return "refused by libpq: direct negotiation needs sslmode=require or more"
        if self.listen == "off":
            if self.sslmode not in ("disable", "prefer"):
                return f"refused by {'libpq: the proxy has no TLS' if self.negotiation == 'postgres' else 'the proxy: TLS is off'}"
            return self.over("clear")
        if self.sslmode == "disable":
            return self.over("clear")
        result = self.over("TLS")
        if self.sslmode == "prefer" and result.startswith("refused by the"):
            # An error of the server's in TLS has libpq try once more without.
            return self.over("clear")
        return result

    def over(self, transport: str) -> str:
        if transport == "clear" and self.listen == "require":
            return "refused by the proxy: TLS is required"
        asked = self.mode == "scram" or self.user == "with_password"
        # The proxy offers what it can check itself; a backend's offer is relayed where the client's connection is in
        # TLS too.
        offered = asked and transport == "TLS" and (self.mode == "scram" or self.backend != "off")
        if self.binding == "require" and not offered:
            return "refused by libpq: channel binding is not offered"
        if offered and self.binding != "disable" and self.mode == "passthrough":
            # The client binds to the proxy's certificate, the backend checks for its own.
            return "refused by the backend: channel binding does not fit"
        return f"ok, {transport}"


HEADING = Cell("auth.mode", "listen.tls", "backend.tls", "login", "sslmode", "sslnegotiation", "channel_binding").line(
    "result"
)


def cells(mode: str, listen: str, backend: str) -> list[Cell]:
    # Mode scram asks everybody.
    users = ("app_user", "with_password") if mode == "passthrough" else ("with_password",)
    rest = itertools.product(
        users, ("disable", "prefer", "require", "verify-full"), ("postgres", "direct"), ("disable", "prefer", "require")
    )
    return [Cell(mode, listen, backend, *one) for one in rest]


SITES = list(itertools.product(("passthrough", "scram"), ("off", "allow", "require"), ("off", "verify-full")))


def test_the_kept_matrix_is_what_the_rules_say() -> None:
    lines = [HEADING] + [cell.line(cell.expected()) for one in SITES for cell in cells(*one)]
    if os.environ.get("TEST_WRITE_TLS_MATRIX"):
        KEPT.write_text("\n".join(lines) + "\n")
    assert lines == KEPT.read_text().splitlines()


def test_the_table_of_the_docs_is_what_the_rules_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tls-and-authentication.md").read_text()
    seen = set()
    for line in text.splitlines():
        columns = [column.strip() for column in line.strip("| ").split("|")]
        if len(columns) != 5 or columns[0] not in ("passthrough", "scram"):
            continue
        mode, secured, backends, bindings, said = columns
        for backend, binding in itertools.product(backends.split(", "), bindings.split(", ")):
            cell = Cell(mode, "allow", "off" if backend == "off" else "verify-full", "with_password", "", "", binding)
            result = cell.over("TLS" if secured == "yes" else "clear")
            assert result.startswith("ok" if said == "works" else said), line
            seen.add((mode, secured, backend, binding))
    assert len(seen) == 2 * 2 * 2 * 3


@pytest.mark.parametrize(("mode", "listen", "backend"), SITES)
def test_matrix(site: Site, tmp_path: Path, mode: str, listen: str, backend: str) -> None:
    proxy = site.proxy(tmp_path, listen, backend, auth=site.scram() if mode == "scram" else "")

    def found(cell: Cell) -> str:
        return cell.line(attempt(site, proxy, cell.user, cell.sslmode, cell.negotiation, cell.binding))

    try:
        with ThreadPoolExecutor(4) as pool:
            lines = list(pool.map(found, cells(mode, listen, backend)))
    finally:
        proxy.stop()
    kept = KEPT.read_text().splitlines()
    first = kept.index(cells(mode, listen, backend)[0].line(cells(mode, listen, backend)[0].expected()))
    assert lines == kept[first : first + len(lines)]


@pytest.fixture(scope="module")
def secured(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    made = site.proxy(tmp_path_factory.mktemp("secured"), "require", "verify-full", "login_timeout = 5.0\n")
    yield made
    made.stop()


def context(site: Site, *, alpn: bool = True) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(site.authority.file))
    if alpn:
        made.set_alpn_protocols(["postgresql"])
    return made


def startup(user: str = "app_user") -> bytes:
    body = f"user\0{user}\0database\0app\0\0".encode()
    return struct.pack("!II", len(body) + 8, 196608) + body


def until_ready(sock: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"Z\0\0\0\x05I"):
        part = sock.recv(65536)
        if not part:
            break
        got += part
    return got


def test_the_log_says_that_a_session_was_in_tls(site: Site, secured: Proxy) -> None:
    log = AccessLog(site.backend.dsn())
    with psycopg.connect(f"{secured.dsn()}?sslmode=require", autocommit=True) as session:
        assert session.execute(GETTER).fetchone() == ("nothing",)
    rows = log.settled()
    assert rows and all(row["tls"] for row in rows)
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        inside = admin.execute(
            "SELECT bool_or(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'app_user'"
        ).fetchone()
        assert inside is not None


def test_a_cancel_reaches_its_backend_through_both(site: Site, secured: Proxy) -> None:
    with psycopg.connect(f"{secured.dsn()}?sslmode=require", autocommit=True) as session:
        import threading

        threading.Timer(0.3, session.cancel_safe).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            session.execute("SELECT pg_sleep(30)")


def test_direct_negotiation_in_pieces(site: Site, secured: Proxy) -> None:
    """A ClientHello may come in small pieces, and one with the startup packet right behind the handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(site).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                hello = outgoing.read()
                for start in range(0, len(hello), 50):
                    sock.sendall(hello[start : start + 50])
                incoming.write(sock.recv(65536))
        assert tls.selected_alpn_protocol() == "postgresql"
        tls.write(startup())
        sock.sendall(outgoing.read())
        got = b""
        while not got.endswith(b"Z\0\0\0\x05I"):
            try:
                got += tls.read(65536)
            except ssl.SSLWantReadError:
                part = sock.recv(65536)
                assert part
                incoming.write(part)


def test_direct_negotiation_without_alpn_is_refused(site: Site, secured: Proxy) -> None:
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=20) as plain,
        context(site, alpn=False).wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(startup())
        assert b"without ALPN" in until_ready(sock)


def test_bytes_between_the_request_and_the_handshake_are_refused(secured: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as sock:
        sock.sendall(SSL_REQUEST + startup())
        got = b""
        while part := sock.recv(65536):
            got += part
        assert got[:1] == b"E" and b"received unencrypted data after SSL request" in got


def test_a_second_request_inside_tls_is_an_unknown_version(site: Site, secured: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context(site).wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(SSL_REQUEST)
            assert b"unsupported frontend protocol 1234.5679" in sock.recv(1000)


def test_gss_encryption_is_answered_no_and_tls_may_follow(site: Site, secured: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as plain:
        plain.sendall(struct.pack("!II", 8, 80877104))
        assert plain.recv(1) == b"N"
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context(site).wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(startup())
            assert until_ready(sock).endswith(b"Z\0\0\0\x05I")


def test_noise_in_place_of_a_handshake_costs_only_itself(site: Site, secured: Proxy) -> None:
    with psycopg.connect(f"{secured.dsn()}?sslmode=require", autocommit=True) as session:
        for noise in (b"\x16" + os.urandom(500), SSL_REQUEST, b"\x16"):
            with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as sock:
                sock.sendall(noise)
                if noise == SSL_REQUEST:
                    assert sock.recv(1) == b"S"
                    sock.sendall(os.urandom(500))
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert "Traceback" not in secured.text()


def test_old_versions_are_refused(site: Site, tmp_path: Path) -> None:
    proxy = site.proxy(tmp_path / "new", "require", "off", 'tls_min_version = "1.3"\n')
    try:
        old = context(site)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                old.wrap_socket(plain, server_hostname="127.0.0.1").do_handshake()
    finally:
        proxy.stop()


def test_client_certificates(site: Site, tmp_path: Path) -> None:
    proxy = site.proxy(tmp_path / "clients", "require", "off", f'tls_client_ca = "{site.authority.file}"\n')
    base = f"host=127.0.0.1 port={proxy.port} dbname=app user=app_user sslmode=require"
    try:
        for name, welcome in (("app_user", True), ("intruder", False), (None, False)):
            pair = (
                f" sslcert={site.directory}/{name}.crt sslkey={site.directory}/{name}.key"
                if name
                else " sslcert=none sslkey=none"
            )
            if welcome:
                with psycopg.connect(base + pair) as session:
                    assert session.execute("SELECT 1").fetchone() == (1,)
            else:
                with pytest.raises(psycopg.OperationalError):
                    psycopg.connect(base + pair)
    finally:
        proxy.stop()


def test_a_certificate_is_read_again_on_sighup(site: Site, tmp_path: Path) -> None:
    shutil.copy(site.directory / "proxy.crt", tmp_path / "own.crt")
    shutil.copy(site.directory / "proxy.key", tmp_path / "own.key")
    proxy = site.proxy(
        tmp_path / "reload",
        "off",
        "off",
        f'tls = "require"\ntls_cert = "{tmp_path}/own.crt"\ntls_key = "{tmp_path}/own.key"\n',
    )

    def serial() -> object:
        with (
            socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as plain,
            context(site).wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            return (sock.getpeercert() or {})["serialNumber"]

    try:
        with psycopg.connect(f"{proxy.dsn()}?sslmode=require") as session:
            before = serial()
            certificate, key = site.authority.pair("renewed")
            shutil.copy(certificate, tmp_path / "own.crt")
            proxy.send_signal("HUP")
            proxy.wait_for_text("certificate not read again")
            assert serial() == before
            shutil.copy(key, tmp_path / "own.key")
            proxy.send_signal("HUP")
            proxy.wait_for_text("reloaded", 2)
            assert serial() != before
            assert session.execute("SELECT 1").fetchone() == (1,)
    finally:
        proxy.stop()


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
def test_a_backend_without_tls(site: Site, postgres: Backend, tmp_path: Path, mode: str) -> None:
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file)
    proxy.config.write_text(proxy.config.read_text().replace("[audit]", f'tls = "{mode}"\n[audit]'))
    proxy.start()
    try:
        if mode == "prefer":
            with psycopg.connect(proxy.dsn()) as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
        else:
            with pytest.raises(psycopg.OperationalError, match=r"does not speak TLS \(backend.tls\)"):
                psycopg.connect(proxy.dsn())
    finally:
        proxy.stop()


def test_a_backend_whose_certificate_does_not_verify(site: Site, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, site.backend.address, site.backend.dsn("journal"), site.backend.key_file)
    proxy.config.write_text(
        proxy.config.read_text().replace("[audit]", f'tls = "verify-full"\ntls_ca = "{site.stranger.file}"\n[audit]')
    )
    proxy.start()
    try:
        with pytest.raises(psycopg.OperationalError, match="does not verify"):
            psycopg.connect(proxy.dsn())
    finally:
        proxy.stop()


def test_the_backends_authority_is_read_again_on_sighup(site: Site, tmp_path: Path) -> None:
    """It is renewed while the proxy runs; a file that cannot be used changes nothing, and sessions go on."""
    proxy = Proxy(tmp_path, site.backend.address, site.backend.dsn("journal"), site.backend.key_file)
    authority = tmp_path / "ca.crt"
    shutil.copy(site.stranger.file, authority)
    proxy.config.write_text(
        proxy.config.read_text().replace("[audit]", f'tls = "verify-full"\ntls_ca = "{authority}"\n[audit]')
    )
    proxy.start()
    try:
        with pytest.raises(psycopg.OperationalError, match="does not verify"):
            psycopg.connect(proxy.dsn())
        proxy.wait_for_text("no backend answers")
        with pytest.raises(urllib.error.HTTPError) as unready:
            urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}/readyz", timeout=20)
        assert unready.value.code == 503 and "does not verify" in unready.value.read().decode()
        shutil.copy(site.authority.file, authority)
        proxy.send_signal("HUP")
        proxy.wait_for_text("reloaded")
        proxy.wait_for_text("a backend answers")
        with psycopg.connect(proxy.dsn()) as session:
            authority.write_text("no certificate")
            proxy.send_signal("HUP")
            proxy.wait_for_text("certificates of the backend not read again")
            psycopg.connect(proxy.dsn()).close()
            shutil.copy(site.stranger.file, authority)
            proxy.send_signal("HUP")
            proxy.wait_for_text("reloaded", 3)
            assert session.execute("SELECT 1").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError, match="does not verify"):
                psycopg.connect(proxy.dsn())
    finally:
        proxy.stop()


@pytest.mark.parametrize(
    ("toml", "setting"),
    [
        ('tls = "require"', "listen.tls_cert"),
        ('tls = "require"\ntls_cert = "/nowhere"\ntls_key = "/nowhere"', "listen.tls_cert"),
        ('tls = "allow"\ntls_cert = "{0}"\ntls_key = "{0}"', "listen.tls_key"),
    ],
)
def test_certificates_that_cannot_be_used_are_said(site: Site, tmp_path: Path, toml: str, setting: str) -> None:
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[testimony]\nkey_file = "{site.backend.key_file}"\n[listen]\nport = 0\n{toml.format(site.authority.file)}\n'
    )
    done = secretproxy(["run", "--config", str(config)])
    assert done.returncode == 2 and setting in done.stderr and "Traceback" not in done.stderr


def test_check_tells_of_logins_that_two_legs_of_tls_would_break(site: Site, tmp_path: Path) -> None:
    """`check` says what libpq meets: SCRAM by one TLS connection does not pass through two."""

    def told(directory: str, **settings: str) -> str | None:
        proxy = site.proxy(tmp_path / directory, "allow", "require", **settings)
        try:
            # Who asks as a login with a password sees what such a login is offered.
            known = site.backend.dsn("with_password").replace("@", f":{quote(PASSWORD)}@")
            text = proxy.config.read_text().replace("[audit]", f'monitor_dsn = "{known}"\n[audit]', 1)
            asked = tmp_path / directory / "asked.toml"
            asked.write_text(text)
            said = run("check", "--json", "--config", str(asked))
            return next((one["fault"] for one in json.loads(said.out) if one["check"].startswith("auth.mode")), None)
        finally:
            outcomes[directory] = attempt(site, proxy, "with_password", "require", "postgres", "prefer")
            proxy.stop()

    outcomes: dict[str, str] = {}
    fault = told("passthrough")
    assert fault is not None and "SCRAM-SHA-256-PLUS" in fault and 'auth.mode = "scram"' in fault
    assert not outcomes["passthrough"].startswith("ok")
    assert told("scram", auth=site.scram()) is None
    assert outcomes["scram"].startswith("ok")
    for name in ("crt", "key"):
        shutil.copy(site.directory / f"proxy.{name}", tmp_path / f"kept.{name}")
        shutil.copy(site.directory / f"server.{name}", site.directory / f"proxy.{name}")
    try:
        assert told("servers") is None
        assert outcomes["servers"].startswith("ok")
    finally:
        for name in ("crt", "key"):
            shutil.copy(tmp_path / f"kept.{name}", site.directory / f"proxy.{name}")
