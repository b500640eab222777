"""Gives settings files that cannot be read to their end, which are refused at once, and certificates that are out of
date, which are told."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secretproxy.config import ConfigError, ListenSettings, load_settings
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.proxy.authentication.verifiers import UsersFile
from secretproxy.proxy.client.tls import ClientTls, listen_binding
from secretproxy.proxy.listeners import preflight
from secretproxy.proxy.transport.secured import load_ca, load_pair

READERS: dict[str, Callable[[Path], object]] = {
    "testimony.key_file": load_key_file,
    "auth.users_file": UsersFile,
    "listen.tls_cert": lambda path: load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path, path, "listen"),
    "listen.tls_client_ca": lambda path: load_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path, "listen.tls_client_ca"),
    "tls_cert": lambda path: listen_binding(ListenSettings(tls="allow", tls_cert=path, tls_key=path)),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("setting", READERS)
def test_a_pipe_that_nobody_writes_stops_nothing(tmp_path: Path, setting: str) -> None:
    """SIGHUP reads these files in the event loop: who waits there holds up every session."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe, 0o600)
    link.symlink_to(pipe)
    for path in (pipe, link, Path("/dev/null")):
        with pytest.raises((ConfigError, KeyFileError), match=f"{setting} .*is a pipe or a device, not a file"):
            READERS[setting](path)


def test_a_link_to_nothing_is_told_as_one(tmp_path: Path) -> None:
    """`install` does not make the file through a link, so nobody is sent to `install`."""
    path = tmp_path / "keys"
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(KeyFileError, match="is a link to a file that there is not") as told:
        load_key_file(path)
    assert "install" not in str(told.value)


def shown(directory: Path, begin: timedelta, end: timedelta) -> tuple[Path, Path]:
    """Makes a certificate that is valid between two times, as seen from now, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now + begin).not_valid_after(now + end)
    certificate, private = directory / "own.crt", directory / "own.key"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [(-2 * DAY, -DAY, "the certificate expired at"), (DAY, 2 * DAY, "is not valid before"), (-DAY, DAY, None)],
    ids=("expired", "early", "valid"),
)
def test_a_certificate_that_clients_refuse_is_told_by_check_and_at_sighup(
    tmp_path: Path, begin: timedelta, end: timedelta, words: str | None
) -> None:
    certificate, private = shown(tmp_path, begin, end)
    pair = f'tls_cert = "{certificate}"\ntls_key = "{private}"\n'
    for mode in ("allow", "off"):
        config = tmp_path / f"{mode}.toml"
        tls = {"allow": ("allow", "require"), "off": ("off", "off")}[mode]
        config.write_text(f'[listen]\ntls = "{tls[0]}"\n{pair}[backend]\ntls = "{tls[1]}"\n{pair}')
        told = list(preflight.certificates(load_settings(config)))
        if words is None or mode == "off":
            assert told == []
        else:
            assert [setting for setting, fault in told if words in fault] == ["listen.tls_cert", "backend.tls_cert"]
    renewed = ClientTls(ListenSettings(tls="allow", tls_cert=certificate, tls_key=private))
    with structlog.testing.capture_logs() as lines:
        renewed.renew()
        renewed.renew(asked=False)
    assert [words in line["cause"] for line in lines if words] == ([] if words is None else [True])
    assert all(line["setting"] == "listen.tls_cert" for line in lines)
