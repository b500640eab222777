"""A certificate that cannot be read any more: the old one stays, and clients do not fill the log with that."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from secretproxy.config import ListenSettings
from secretproxy.proxy.client.tls import ClientTls
from tests.support.certificates import Authority


@pytest.fixture
def settings(tmp_path: Path) -> ListenSettings:
    certificate, key = Authority(tmp_path).pair("proxy")
    return ListenSettings(tls="allow", tls_cert=certificate, tls_key=key)


@pytest.mark.parametrize("damage", ["gone", "empty", "of another key"])
def test_a_problem_is_logged_once_however_many_clients_meet_it(
    settings: ListenSettings, tmp_path: Path, damage: str
) -> None:
    tls = ClientTls(settings)
    context = tls.context
    assert settings.tls_cert is not None
    whole = settings.tls_cert.read_bytes()
    if damage == "gone":
        settings.tls_cert.unlink()
    else:
        (tmp_path / "another").mkdir()
        other = Authority(tmp_path / "another").pair("proxy")[0].read_bytes()
        settings.tls_cert.write_bytes(b"" if damage == "empty" else other)
    with capture_logs() as logs:
        for _ in range(5):
            tls.renew(asked=False)
    assert len(logs) == 1 and tls.context is context
    with capture_logs() as logs:
        tls.renew()
    assert len(logs) == 1, "whoever reloads is told again"
    settings.tls_cert.write_bytes(whole)
    with capture_logs() as logs:
        tls.renew(asked=False)
    assert not logs and tls.context is not context
    settings.tls_cert.unlink()
    with capture_logs() as logs:
        tls.renew(asked=False)
    assert len(logs) == 1
