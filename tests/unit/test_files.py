"""Gives settings files that cannot be read to their end: they are refused at once, and not waited for."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from secretproxy.config import ConfigError, ListenSettings
from secretproxy.install.keyfile import KeyFileError, load_key_file
from secretproxy.proxy.authentication.verifiers import UsersFile
from secretproxy.proxy.client.tls import listen_binding
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
