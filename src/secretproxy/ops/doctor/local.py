"""The proxy's own side: its configuration and the files that it names. Reads files' modes, never prints what is in them."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

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


def examine(settings: Settings, config: Path | None) -> list[Finding]:
    found = []
    if settings.listen.tls == "off" and not _local(settings.listen.host):
        found.append(
            Finding(
                "listen_tls", "error", f"listen.tls is off, and the proxy listens on {settings.listen.host}",
                "values pass the network in clear between the clients and the proxy", "listen.tls = \"require\", with listen.tls_cert and listen.tls_key",
            )
        )  # fmt: skip
    far = [host.host for host in settings.backend.addresses if not _local(host.host)]
    if far and settings.backend.tls in ("off", "prefer"):
        found.append(
            Finding(
                "backend_tls", "error" if settings.backend.tls == "off" else "warning", f"backend.tls is {settings.backend.tls}, and the backend is {', '.join(far)}",
                "values can pass the network in clear between the proxy and the backend", "backend.tls = \"verify-full\", with backend.tls_ca",
            )
        )  # fmt: skip
    try:
        load_key_file(settings.testimony.key_file)
    except KeyFileError as error:
        found.append(
            Finding(
                "key_file", "error", str(error), "without its keys, and if others know them, testimony and tokens are worth nothing",
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
    if config is not None and settings.audit.dsn is not None and _readable_by_others(config):
        dsn = settings.audit.dsn.get_secret_value()
        if "password" in dsn or (
            "@" in dsn.partition("://")[2].partition("/")[0] and ":" in dsn.partition("://")[2].partition("@")[0]
        ):
            found.append(
                Finding(
                    "config_mode", "warning", f"{config} can be read by everybody and holds a password (audit.dsn)",
                    "whoever has it can write rows into the log", f"chmod 600 {config}",
                )
            )  # fmt: skip
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
                "checkpoint_file", "info", "audit.checkpoint_file is unset: checkpoints stand only in the database they are to prove",
                "whoever can delete rows of the log can delete its checkpoints too", "audit.checkpoint_file = a file that is kept elsewhere",
            )
        )  # fmt: skip
    return found
