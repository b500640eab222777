"""Makes the mistakes of a new operator: what a command says to each, which setting it names and how it ends;
docs/mistakes.md word for word.

After a wanted change, TEST_WRITE_TRANSCRIPTS=1 writes the table anew; read the difference.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.certificates import Authority
from tests.support.command import run
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import free_port
from secretproxy.install.keyfile import create_key_file

DOCUMENT = Path(__file__).parents[2] / "docs" / "mistakes.md"
LOGIN = "mistaken"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


@dataclass
class Mistake:
    """`sections`: lines of the configuration, in sections, besides those that are right. `named`: what the message must
    name."""

    what: str
    command: str
    named: str
    status: int
    sections: dict[str, list[str]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    text: str | None = None


@dataclass
class Site:
    backend: Backend
    directory: Path

    def dsn(self, user: str = "journal", database: str = "app", password: str = "") -> str:
        return f"postgresql://{user}{password and ':' + password}@{self.backend.address}/{database}"

    def mistakes(self, taken: int, own: int, serving: int) -> list[Mistake]:
        here, wrong = self.directory, "postgresql://journal@127.0.0.1:1/app"
        journal = f'dsn = "{self.dsn()}"'
        unready = {"audit": [journal]}
        return [
            Mistake("The file named does not exist", "check --config nowhere.toml", "--config", 2),
            Mistake("The file is no TOML", "check", "secretproxy.toml", 2, text="[listen\nport = 6432\n"),
            Mistake("A setting is misspelt in the file", "check", "listen.prot", 2, {"listen": ["prot = 6432"]}),
            Mistake("A section is misspelt", "check", "[backend]", 2, {"backends": ['hosts = ["127.0.0.1"]']}),
            Mistake("A setting is misspelt in the environment", "check", "SECRETPROXY_LISTEN_PROT", 2, variables={"SECRETPROXY_LISTEN_PROT": "6432"}),
            Mistake("A value is none in the file", "check", "listen.port", 2, {"listen": ['port = "many"']}),
            Mistake("A value is none in the environment, and right in the file", "check", "SECRETPROXY_LISTEN_PORT", 2, {"listen": ["port = 6432"]}, {"SECRETPROXY_LISTEN_PORT": "many"}),
            Mistake("A choice that there is not", "check", "auth.mode", 2, {"auth": ['mode = "md5"']}),
            Mistake("A wrong port of the backend", "check", "backend.hosts", 1, {"backend": ['hosts = ["127.0.0.1:1"]'], **unready}),
            Mistake("A server's name that does not resolve", "check", "backend.hosts", 1, {"backend": ['hosts = ["nowhere.invalid"]'], **unready}),
            Mistake("backend.tls asks for TLS that the server does not speak", "check", "backend.tls", 1, {"backend": ['tls = "require"'], **unready}),
            Mistake("backend.hosts names the proxy itself", "check", "backend.hosts", 1, {"listen": [f"port = {own}"], "backend": [f'hosts = ["localhost:{own}"]'], **unready}),
            Mistake("audit.dsn names the proxy itself", "check", "audit.dsn", 1, {"listen": [f"port = {serving}"], "audit": [f'dsn = "postgresql://journal@127.0.0.1:{serving}/app"']}),
            Mistake("A wrong port of the log", "check", "audit.dsn", 1, {"audit": [f'dsn = "{wrong}"']}),
            Mistake("A wrong password", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn(LOGIN, password="wrong")}"']}),
            Mistake("A login that does not exist", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn("jornal")}"']}),
            Mistake("A login that may not write the log", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn("app_user")}"']}),
            Mistake("A database that does not exist", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn(database="ap")}"']}),
            Mistake("A database without the log", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn(database="postgres")}"']}),
            Mistake("audit.dsn is no connection string", "check", "audit.dsn", 1, {"audit": ['dsn = "db.example:5432/app"']}),
            Mistake("A parameter of the DSN is misspelt", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn()}?sslmod=require"']}),
            Mistake("There is no key file yet", "check", "testimony.key_file", 1, {"testimony": [f'key_file = "{here}/missing.key"'], **unready}),
            Mistake("Others may read the key file", "check", "testimony.key_file", 1, {"testimony": [f'key_file = "{here}/open.key"'], **unready}),
            Mistake("The key file is another database's", "check", "testimony.key_file", 1, {"testimony": [f'key_file = "{here}/other.key"'], **unready}),
            Mistake("The same, at the next installation", f"install --dsn {self.dsn('postgres')}", "testimony.key_file", 2, {"testimony": [f'key_file = "{here}/other.key"']}),
            Mistake("The port is taken", "run", "listen.port", 2, {"listen": [f"port = {taken}"]}),
            Mistake("An address that this host does not have", "check", "listen.host", 1, {"listen": ['host = "192.0.2.1"'], **unready}),
            Mistake("The socket's directory is missing", "run", "listen.unix_socket_dir", 2, {"listen": ['host = ""', f'unix_socket_dir = "{here}/run"']}),
            Mistake("TLS without a certificate", "check", "listen.tls_cert", 1, {"listen": ['tls = "require"'], **unready}),
            Mistake("The certificate and its key do not fit", "check", "listen.tls_cert", 1, {"listen": ['tls = "require"', f'tls_cert = "{here}/one.crt"', f'tls_key = "{here}/two.key"'], **unready}),
            Mistake("A spool without a directory", "check", "audit.spool_dir", 2, {"audit": [journal, 'on_outage = "spool"']}),
            Mistake("auth.mode is scram, and nobody says who the users are", "check", "auth.users_file", 2, {"auth": ['mode = "scram"']}),
            Mistake("Retention without a key that signs", "audit retention", "audit.checkpoint_key_file", 2, {"audit": ['retention = "400 days"']}),
            Mistake("Who reviews is no auditor", "audit list", "--dsn", 2, {"audit": [f'review_dsn = "{self.dsn("outsider")}"']}),
            Mistake("Who reviews looks in a database without a log", "audit list", "--dsn", 2, {"audit": [f'review_dsn = "{self.dsn("auditor", "postgres")}"']}),
            Mistake("Nothing says where the log is", "audit list", "--dsn", 2, variables={"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "auditor", "PGDATABASE": "app"}),
            Mistake("A password has an @ that is not written as %40", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn("journal", password="pass@wrong")}"']}),
            Mistake("A password has a / that is not written as %2F", "check", "audit.dsn", 1, {"audit": [f'dsn = "{self.dsn("journal", password="12/wrong")}"']}),
            Mistake("A server is given as a URI", "check", "backend.hosts", 2, {"backend": ['hosts = ["postgresql://app:wrong@127.0.0.1:5432"]']}),
            Mistake("The time that the log is kept has no unit", "audit retention --keep 400", "--keep", 2, {"audit": [f'checkpoint_key_file = "{here}/sign.pem"']}),
            Mistake("The end of a time span is before its beginning", f"audit list --since 2h --until 3h --dsn {self.dsn('auditor')}", "--since", 2),
            Mistake("Who reviews logs in as who writes the log", f"audit list --dsn {self.dsn('journal')}", "--dsn", 2),
            Mistake("A revert in a database that it is not installed in", f"revert --yes --dsn {self.dsn('postgres', 'postgres')}", "database postgres", 1),
            Mistake("Keys in a database that it is not installed in", f"keys status --dsn {self.dsn('postgres', 'postgres')}", "database postgres", 2),
            Mistake("The role of --owner does not exist", f"install --owner nobody --dsn {self.dsn('postgres')}", "--owner", 2),
            Mistake("Who installs may not", f"install --dsn {self.dsn('outsider', 'postgres')}", "--dsn", 2),
        ]  # fmt: skip

    def write(self, mistake: Mistake) -> Path:
        config = self.directory / "secretproxy.toml"
        right = {
            "backend": [f'hosts = ["{self.backend.address}"]'],
            "listen": ["port = 0"],
            "testimony": [f'key_file = "{self.backend.key_file}"'],
        }
        sections = {name: list(lines) for name, lines in mistake.sections.items()}
        for name, lines in right.items():
            given = {line.partition(" ")[0] for line in sections.get(name, [])}
            sections[name] = sections.get(name, []) + [line for line in lines if line.partition(" ")[0] not in given]
        text = "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())
        config.write_text(text if mistake.text is None else mistake.text)
        return config

    def plain(self, text: str, *ports: int) -> str:
        """Replaces what differs from run to run by what a reader would have."""
        # PostgreSQL 16 has other words for it.
        text = text.replace("WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", "WITH ADMIN OPTION")
        text = text.replace(str(self.backend.key_file), "secretproxy.key").replace(f"{self.directory}/", "")
        text = text.replace(self.backend.address, "127.0.0.1:5432")
        return re.sub("|".join(map(str, ports)), "6432", text)


@pytest.fixture
def site(postgres: Backend, tmp_path: Path) -> Iterator[Site]:
    server = postgres.server
    if server is None:
        pytest.skip("the server's pg_hba.conf is out of reach")
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    authority = Authority(tmp_path)
    for name in ("one", "two"):
        authority.pair(name)
    create_key_file(tmp_path / "other.key")
    create_key_file(tmp_path / "open.key").clear()
    (tmp_path / "open.key").chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD 'right' IN ROLE secretproxy_writer")
        rules.write_text(f"host all {LOGIN} 127.0.0.1/32 scram-sha-256\n{before}")
        admin.execute("SELECT pg_reload_conf()")
        try:
            yield Site(postgres, tmp_path)
        finally:
            rules.write_text(before)
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(f"DROP ROLE {LOGIN}")


def said(site: Site, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Gives the exit status and what is said, without what is well."""
    config = site.write(mistake)
    arguments = mistake.command.split(" ")
    for name in list(os.environ):
        if name.startswith(("PG", "SECRETPROXY_")):
            monkeypatch.delenv(name)
    for name, value in mistake.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(config.parent)
    found = run(*arguments)
    status, text = found.status, found.out + found.err
    assert "wrong" not in text.replace(str(site.directory), "")
    # Nor the steps of an installation that are.
    lines = [line for line in text.splitlines() if not line.startswith(("ok ", "  "))]
    return status, " ".join(re.sub(r"^(FAIL  |secretproxy: )", "", line) for line in lines)


def test_mistakes_are_told_with_what_mends_them(site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["| mistake | command | what it says | exit |", "| --- | --- | --- | --- |"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken, own = listener.getsockname()[1], free_port()
        for mistake in site.mistakes(taken, own, proxy.port):
            status, text = said(site, mistake, monkeypatch)
            assert status == mistake.status, (mistake.what, status, text)
            assert mistake.named in text, (mistake.what, text)
            if mistake.variables and mistake.named in mistake.variables:
                assert "secretproxy.toml" not in text, "the file is not to blame"
            cells = [
                mistake.what,
                f"`{site.plain(mistake.command, taken, own, proxy.port)}`",
                site.plain(text, taken, own, proxy.port),
                str(status),
            ]
            rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    assert len(rows) >= 22
    document = DOCUMENT.read_text()
    head, rest = document.split(BEGIN)
    tail = rest.split(END)[1]
    found = head + BEGIN + "\n".join(rows) + "\n" + END + tail
    if os.environ.get("TEST_WRITE_TRANSCRIPTS"):
        DOCUMENT.write_text(found)
    else:
        assert found.splitlines() == document.splitlines()


def test_a_variable_is_named_whatever_the_file_says(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for each kind of setting: a number, a list, a choice, a file's own setting next to it that is
    right."""
    for variable, value in {
        "SECRETPROXY_LIMITS_MAX_MESSAGE": "1k",
        "SECRETPROXY_BACKEND_HOSTS": "::bad::",
        "SECRETPROXY_LISTEN_TLS": "yes",
        "SECRETPROXY_LOG_SESSIONS": "perhaps",
        "SECRETPROXY_WORKERS": "-1",
        "SECRETPROXY_MONITOR_TABLES": "no_schema",
    }.items():
        mistake = Mistake("", "check", variable, 2, {"log": ['level = "info"']}, {variable: value})
        status, text = said(site, mistake, monkeypatch)
        assert status == 2 and variable in text and "secretproxy.toml" not in text, text
        monkeypatch.delenv(variable)
