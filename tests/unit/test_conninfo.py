"""Checks that connection strings are read as libpq reads them: libpq itself is asked, string by string."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import OperationalError, ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from secretproxy.connections import ConnectError, ConninfoError, connect, read
from secretproxy.connections.conninfo import PARAMETERS, _pairs

TAKEN = [
    "",
    "  ",
    "host=db.example dbname=app user=a",
    "host = 'db.example'\tport= 5433\n dbname =app",
    r"password='it\'s\\ \n' user=a",
    r"password=a\ b\'c user=",
    "dbname='' user=a",
    "user=a user=b",
    "postgresql://",
    "postgres://",
    "postgresql://a@b/c",
    "postgresql://a:p%40ss%2Fw%3Ard@b:5433/c%20d?connect_timeout=10&application_name=x%26y",
    "postgresql://b?sslmode=require&sslrootcert=/etc/ca.pem",
    "postgresql://b?ssl=true",
    "postgresql:///c?host=/var/run/postgresql&port=5433",
    "postgresql://%2Fvar%2Frun%2Fpostgresql/c",
    "postgresql://a@one,two:7,[::1]:8,[fe80::1]/c?target_session_attrs=read-write",
    "postgresql://one:5432,:5433/c",
    "postgresql://:secret@b/c",
    "postgresql://a:@b/c",
    "postgresql://a@b/c?options=-c%20statement_timeout%3D5s",
    "postgresql://a@b/c?hostaddr=127.0.0.1&passfile=/x/y&keepalives=1&tcp_user_timeout=5",
    "host=one,two port=1,2 target_session_attrs=standby load_balance_hosts=random",
    "service=none options='-c geqo=off -c lock_timeout=1s'",
]
REFUSED = [
    "app",
    "host",
    "host=a b",
    "=a",
    "host='a",
    "host='a' 'b'",
    "hots=a",
    "postgresql://a@b/c?connect_timeut=1",
    "postgresql://a@b/c?connect_timeout",
    "postgresql://a@b/c?connect_timeout=1=2",
    "postgresql://a@b/c%zz",
    "postgresql://a%00@b/c",
    "postgresql://a@[::1/c",
    "postgresql://a@[]/c",
    "mysql://a@b/c",
]


@pytest.mark.parametrize("text", TAKEN)
def test_what_libpq_takes_is_read_as_libpq_reads_it(text: str) -> None:
    theirs = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    assert {name: value for name, value in dict(_pairs(text)).items() if value} == {
        k: v for k, v in theirs.items() if v
    }


@pytest.mark.parametrize("text", REFUSED)
def test_what_libpq_refuses_is_refused(text: str) -> None:
    with pytest.raises(ProgrammingError):
        conninfo_to_dict(text)
    with pytest.raises(ConninfoError):
        read(text)


_PIECES = st.sampled_from(
    ["host", "port", "user", "password", "dbname", "sslmode", "options", "=", " = ", "'", "\\", "\\'", " ", "\t", "a", "b c", "@", ":", "/",
     "?", "&", "%41", "%", "%2", "[", "]", "[::1]", ",", "1", "5432", "postgresql://", "postgres://", "é"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.lists(_PIECES, max_size=14).map("".join))
@example("postgresql://a@b:c@d/e")
@example("postgresql://[::1]x/e")
def test_any_string_is_taken_or_refused_as_by_libpq(text: str) -> None:
    try:
        theirs: dict[str, str] | None = {
            name: str(value) for name, value in conninfo_to_dict(text).items() if value not in ("", None)
        }
    except (ProgrammingError, OperationalError):
        theirs = None
    except UnicodeDecodeError:
        return
    try:
        ours: dict[str, str] | None = {name: value for name, value in dict(_pairs(text)).items() if value}
    except ConninfoError:
        ours = None
    assert ours == theirs


def test_the_parameters_are_libpqs() -> None:
    from psycopg.pq import Conninfo

    known = {
        option.keyword.decode(): option.envvar.decode() if option.envvar else None for option in Conninfo.get_defaults()
    }
    for name, variable in known.items():
        assert PARAMETERS[name] == variable, name


def test_no_error_quotes_a_piece_of_the_string(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        "postgresql://a:hunter2/@b/c", "postgresql://a:x/?hunter2=1@b/c", "host=a hunter2", "hunter2=x",
        "postgresql://a:hunter2%zz@b/c", "password='hunter2", "port=hunter2", "sslmode=hunter2", "connect_timeout=hunter2",
    ):  # fmt: skip
        with pytest.raises(ConninfoError) as caught:
            read(text)
        assert "hunter2" not in str(caught.value), text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_services_variables_and_the_string_in_falling_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".pg_service.conf").write_text(
        "# a\n[other]\nhost=no\n[log]\nhost=from.service\nport=7\ndbname = logs\n\n[more]\nuser=no\n"
    )
    monkeypatch.setenv("PGPORT", "9")
    monkeypatch.setenv("PGUSER", "from_variable")
    for text in ("service=log dbname=mine", "postgresql:///mine?service=log"):
        found = read(text)
        assert (str(found.places[0]), found.database, found.user) == ("from.service:7", "mine", "from_variable")
    monkeypatch.setenv("PGSERVICE", "log")
    assert read(None).database == "logs" and read("port=8").places[0].port == 8
    monkeypatch.setenv("PGSERVICEFILE", str(home / "another"))
    with pytest.raises(ConninfoError, match="no such file"):
        read(None)
    (home / "another").write_text("[log]\nhost=from.another\nsevrice=x\n")
    with pytest.raises(ConninfoError, match=r"line 3.*did you mean service"):
        read(None)
    monkeypatch.setenv("PGSERVICE", "missing")
    with pytest.raises(ConninfoError, match="no section"):
        read(None)


def test_the_password_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / ".pgpass"
    path.write_text(
        "# one\nother:*:*:*:no\nb:5432:c:a:right\\:\\\\word\n*:7:*:*:by port\nlocalhost:*:s:*:socket\nb:*:*:*:later\n::1:1:c:a:six\n"
    )
    path.chmod(0o600)

    def password(text: str) -> str | None:
        found = read(text)
        return found.password(found.places[0])

    assert password("host=b dbname=c user=a") == "right:\\word"
    assert password("host=x port=7 dbname=c user=a") == "by port"
    assert password("host=/tmp dbname=s user=a") == "socket"
    assert password("host=b dbname=d user=a") == "later"
    assert password("host=x dbname=d user=a") is None
    assert password("host=b dbname=c user=a password=given") == "given"
    path.chmod(0o640)
    assert password("host=b dbname=c user=a") is None
    assert read("host=b dbname=c user=a").ignored_password_file == path
    monkeypatch.setenv("PGPASSFILE", str(home / "elsewhere"))
    assert password("host=b dbname=c user=a") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host=a,b", ["a:5432", "b:5432"]),
        ("host=a,b port=1,2", ["a:1", "b:2"]),
        ("host=a,b port=7", ["a:7", "b:7"]),
        ("hostaddr=127.0.0.1,::1", ["127.0.0.1:5432", "[::1]:5432"]),
        ("host=/s", ["/s/.s.PGSQL.5432"]),
        ("postgresql://a@one,two:7,[::1]:8/c", ["one:5432", "two:7", "[::1]:8"]),
    ],
)
def test_servers(home: Path, text: str, expected: list[str]) -> None:
    assert [str(place) for place in read(text).places] == expected


@pytest.mark.parametrize(
    "text",
    ["host=a,b port=1,2,3", "host=a,b hostaddr=127.0.0.1", "port=0", "port=65536", "sslmode=maybe", "channel_binding=require",
     "requirepeer=postgres", "require_auth=scram-sha-256", "gssencmode=require", "target_session_attrs=best", "host=@abstract"],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(home: Path, text: str) -> None:
    with pytest.raises(ConninfoError):
        read(text)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PGPORT", "54x2", "port is not a whole number"), ("PGPORT", "0", "port is not between"), ("PGPORT", "1,2", "port names 2 ports"),
        ("PGSSLMODE", "on", "sslmode is one of"), ("PGCONNECT_TIMEOUT", "soon", "connect_timeout is not a whole number"),
        ("PGTARGETSESSIONATTRS", "master", "target_session_attrs is one of"), ("PGCHANNELBINDING", "require", "channel_binding is not supported"),
        ("PGHOST", "@abstract", "host: abstract"), ("PGSERVICE", "nobodys", "service: no section"),
    ],
)  # fmt: skip
def test_an_error_of_a_variable_names_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConninfoError) as error:
        read("dbname=app")
    assert str(error.value).startswith(f"environment variable {variable}: {words}")


def test_an_error_of_the_string_names_no_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "54x2")
    for text in ("port=54x3", "port=5432 sslmode=on", "service=nobodys port=1"):
        with pytest.raises(ConninfoError) as error:
            read(text)
        assert "environment" not in str(error.value)


async def test_a_certificate_that_a_variable_names_is_told_with_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(home / "none.crt"))
    with pytest.raises(ConnectError, match="environment variable PGSSLROOTCERT: sslrootcert, sslcrl: No such file"):
        await connect("host=127.0.0.1 port=1 user=u dbname=d sslmode=verify-full", "test", timeout=2)
