"""The proxy's own side.

Its configuration and the files that it names. Reads files' modes, never prints what is in them.
"""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

from pydantic import SecretStr

from secretproxy.config import Settings
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.ops.doctor.findings import Finding


def _local(host: str) -> bool:
    if host.startswith("/") or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o007)
    except OSError:
        return False


def _dsns(settings: Settings) -> dict[str, SecretStr | None]:
    return {
        "audit.dsn": settings.audit.dsn,
        "audit.review_dsn": settings.audit.review_dsn,
        "auth.lookup_dsn": settings.auth.lookup_dsn,
        "backend.monitor_dsn": settings.backend.monitor_dsn,
    }


def _has_password(dsn: str) -> bool:
    login = dsn.partition("://")[2]
    return "password" in dsn or ("@" in login.partition("/")[0] and ":" in login.partition("@")[0])


def examine(settings: Settings, config: Path | None) -> list[Finding]:
    """Gives the findings on the configuration and on the files that it names."""
    return [
        *_network(settings),
        *_files(settings),
        *_config_file(settings, config),
        *_certificate(settings),
        *_checkpoints(settings),
    ]


def _network(settings: Settings) -> list[Finding]:
    found = []
    if settings.listen.tls == "off" and not _local(settings.listen.host):
        found.append(
            Finding(
                "listen_tls", "error", f"listen.tls is off, and the proxy listens on {settings.listen.host}",
                "values pass the network in clear between the clients and the proxy",
                    "listen.tls = \"require\", with listen.tls_cert and listen.tls_key",
            )
        )  # fmt: skip
    far = [host.host for host in settings.backend.addresses if not _local(host.host)]
    if far and settings.backend.tls in ("off", "prefer"):
        found.append(
            Finding(
                "backend_tls", "error" if settings.backend.tls == "off" else "warning",
                    f"backend.tls is {settings.backend.tls}, and the backend is {', '.join(far)}",
                "values can pass the network in clear between the proxy and the backend",
                    "backend.tls = \"verify-full\", with backend.tls_ca",
            )
        )  # fmt: skip
    return found


def _files(settings: Settings) -> list[Finding]:
    found = []
    try:
        load_key_file(settings.testimony.key_file)
    except KeyFileError as error:
        found.append(
            Finding(
                "key_file", "error", str(error), "without its keys, and if others know them, testimony and tokens are "
                                                 "worth nothing",
                f"chmod 600 {settings.testimony.key_file}, or secretproxy install where it is missing",
            )
        )  # fmt: skip
    for name, path in {
        "listen.tls_key": settings.listen.tls_key,
        "audit.checkpoint_key_file": settings.audit.checkpoint_key_file,
        "auth.users_file": settings.auth.users_file,
    }.items():
        if path is not None and _readable_by_others(path):
            found.append(
                Finding(
                    "file_mode",
                    "error",
                    f"{name} {path} can be read by everybody",
                    "it holds a key or verifiers",
                    f"chmod 600 {path}",
                )
            )
    return found


def _config_file(settings: Settings, config: Path | None) -> list[Finding]:
    found = []
    if config is not None and _readable_by_others(config):
        holding = [
            name for name, dsn in _dsns(settings).items() if dsn is not None and _has_password(dsn.get_secret_value())
        ]
        if holding:
            found.append(
                Finding(
                    "config_mode", "warning", f"{config} can be read by everybody and holds a password "
                                              f"({', '.join(holding)})",
                    "whoever has it can log in with it", f"chmod 600 {config}",
                )
            )  # fmt: skip
    return found


def _certificate(settings: Settings) -> list[Finding]:
    found = []
    if settings.backend.tls_cert is not None and settings.auth.mode == "passthrough":
        found.append(
            Finding(
                "relayed_certificate", "warning", "backend.tls_cert is set, and auth.mode is passthrough",
                "where pg_hba.conf asks for a certificate, every client is let in as whoever the proxy's certificate "
                "stands for", "auth.mode = \"scram\"",
            )
        )  # fmt: skip
    return found


def _checkpoints(settings: Settings) -> list[Finding]:
    found = []
    if settings.audit.checkpoint_key_file is None:
        found.append(
            Finding(
                "checkpoints", "warning", "audit.checkpoint_key_file is unset: chains are not signed",
                "rows that a superuser cuts off the end of the log, or a chain made anew, would not show",
                "audit.checkpoint_key_file = \"checkpoint.key\", and audit.checkpoint_file on a disk of its own",
            )
        )  # fmt: skip
    elif settings.audit.checkpoint_file is None and settings.audit.checkpoint_command is None:
        found.append(
            Finding(
                "checkpoint_file", "info", "audit.checkpoint_file is unset: checkpoints stand only in the database "
                                           "they are to prove",
                "whoever can delete rows of the log can delete its checkpoints too",
                    "audit.checkpoint_file = a file that is kept elsewhere",
            )
        )  # fmt: skip
    return found
