"""Checks users files and the table of failures: what is taken, what is refused, and that no line of a file is ever
quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from secretproxy.config import ConfigError
from secretproxy.proxy.authentication.throttle import LoginThrottle
from secretproxy.proxy.authentication.verifiers import UsersFile

KEYS = "c3RvcmVkIGtleSBvZiB0aGlydHktdHdvIGJ5dGVzISE=:c2VydmVyIGtleSBvZiB0aGlydHktdHdvIGJ5dGVzISE="
VERIFIER = f"SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==${KEYS}"
MANY = VERIFIER.replace("$4096:", "$10000:")


async def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(
        f'; pgbouncer\n# or ours\n\n"one" "{VERIFIER}"\n  "with ""quotes""\t and blank" "{MANY}" more\n"ünï" "{MANY}"\n'
    )
    users = UsersFile(path)
    assert users.iterations == 10000
    for name in ("one", 'with "quotes"\t and blank', "ünï"):
        assert await users.find(name) is not None
    for name in ("One", "", "two", "; pgbouncer"):
        assert await users.find(name) is None
    path.write_text(f'"two" "{VERIFIER}"\n')
    users.reload()
    assert await users.find("one") is None and await users.find("two") is not None and users.iterations == 4096


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('"user" "hunter2"', "not a SCRAM-SHA-256 verifier"),
        ('"user" "md5d41d8cd98f00b204e9800998ecf8427e"', "not a SCRAM-SHA-256 verifier"),
        (f'"user" "{VERIFIER[:-4]}"', "a damaged SCRAM-SHA-256 verifier"),
        ("user hunter2", "line 2: is not"),
        ('"user" "hunter2', "line 2: is not"),
        ('"user"', "line 2: is not"),
    ],
)
async def test_lines_that_are_refused(tmp_path: Path, line: str, cause: str) -> None:
    path = tmp_path / "users"
    path.write_text(f'"one" "{VERIFIER}"\n')
    users = UsersFile(path)
    path.write_text(f"; comment\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        users.reload()
    text = str(caught.value)
    assert (
        "auth.users_file" in text
        and cause in text
        and "hunter2" not in text
        and "d41d8" not in text
        and KEYS[:8] not in text
    )
    assert await users.find("one") is not None


def test_failures_are_counted_and_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("secretproxy.proxy.authentication.throttle.time.monotonic", lambda: now)
    failures = LoginThrottle(per_address=10, per_user=30)
    for count in range(10):
        assert failures.wait(b"192.0.2.1", b"user%d" % count) == 0
        failures.failed(b"192.0.2.1", b"user%d" % count)
    assert 0 < failures.wait(b"192.0.2.1", b"anybody") <= 6
    assert failures.wait(b"192.0.2.2", b"user1") == 0
    now += 6.1
    assert failures.wait(b"192.0.2.1", b"anybody") == 0
    failures.failed(b"192.0.2.1", b"anybody")
    assert failures.wait(b"192.0.2.1", b"anybody") > 0
    now += 120
    assert failures.wait(b"192.0.2.1", b"anybody") == 0


def test_a_user_under_attack_gets_in_from_where_he_was(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = LoginThrottle(per_address=10, per_user=30)
    failures.succeeded(b"192.0.2.200", b"user")
    for place in range(30):
        failures.failed(b"198.51.100.%d" % place, b"user")
    assert failures.wait(b"192.0.2.201", b"user") > 0
    assert failures.wait(b"192.0.2.200", b"user") == 0 == failures.wait(b"192.0.2.201", b"another")


def test_no_limit() -> None:
    failures = LoginThrottle(per_address=0, per_user=0)
    for _ in range(1000):
        failures.failed(b"192.0.2.1", b"user")
    assert failures.wait(b"192.0.2.1", b"user") == 0


def test_many_addresses_take_no_more_memory_and_disturb_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand attackers are at their limit: who else is taken for one of them."""
    failures = LoginThrottle(per_address=20, per_user=0)
    for place in range(1000):
        for _ in range(20):
            failures.failed(b"2001:db8:%x::/64" % place, b"user")
    taken = sum(failures.wait(b"192.0.%d.%d" % divmod(place, 256), b"user") > 0 for place in range(5000))
    assert taken < 50


def test_a_refused_login_names_the_limit_that_refuses_it() -> None:
    failures = LoginThrottle(per_address=5, per_user=3)
    for _ in range(3):
        failures.failed(b"192.0.2.1", b"somebody")
    assert failures.wait_by(b"192.0.2.9", b"somebody")[1] == "auth.failures_per_user"
    for _ in range(3):
        failures.failed(b"192.0.2.1", b"another")
    assert failures.wait_by(b"192.0.2.1", b"third")[1] == "auth.failures_per_address"
    assert failures.wait_by(b"192.0.2.7", b"third")[0] == 0
