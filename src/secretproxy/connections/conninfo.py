"""Reads connection strings as libpq does: URIs, keyword strings, service files, PG* variables, the password file.

Source: src/interfaces/libpq/fe-connect.c (conninfo_parse, conninfo_uri_parse, parseServiceInfo, conninfo_add_defaults,
passwordFromFile). Reads files and the environment, and opens no connection. An error names a parameter that libpq
knows, and never quotes the string."""

from __future__ import annotations

import difflib
import getpass
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

# libpq's parameters and the variables that they default to. PQconninfoOptions of PostgreSQL 18, and older names that it
# still takes.
PARAMETERS: dict[str, str | None] = {
    "application_name": "PGAPPNAME", "authtype": None, "channel_binding": "PGCHANNELBINDING", "client_encoding":
        "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT", "dbname": "PGDATABASE", "fallback_application_name": None, "gssdelegation":
        "PGGSSDELEGATION",
    "gssencmode": "PGGSSENCMODE", "gsslib": "PGGSSLIB", "host": "PGHOST", "hostaddr": "PGHOSTADDR", "keepalives": None,
    "keepalives_count": None, "keepalives_idle": None, "keepalives_interval": None, "krbsrvname": "PGKRBSRVNAME",
    "load_balance_hosts": "PGLOADBALANCEHOSTS", "max_protocol_version": "PGMAXPROTOCOLVERSION",
    "min_protocol_version": "PGMINPROTOCOLVERSION", "oauth_client_id": None, "oauth_client_secret": None,
        "oauth_issuer": None,
    "oauth_scope": None, "options": "PGOPTIONS", "passfile": "PGPASSFILE", "password": "PGPASSWORD", "port": "PGPORT",
    "replication": None, "require_auth": "PGREQUIREAUTH", "requirepeer": "PGREQUIREPEER", "requiressl": "PGREQUIRESSL",
    "scram_client_key": None, "scram_server_key": None, "service": "PGSERVICE", "servicefile": "PGSERVICEFILE",
        "sslcert": "PGSSLCERT",
    "sslcertmode": "PGSSLCERTMODE", "sslcompression": "PGSSLCOMPRESSION", "sslcrl": "PGSSLCRL", "sslcrldir":
        "PGSSLCRLDIR",
    "sslkey": "PGSSLKEY", "sslkeylogfile": None, "sslmode": "PGSSLMODE", "sslnegotiation": "PGSSLNEGOTIATION",
        "sslpassword": None,
    "sslrootcert": "PGSSLROOTCERT", "sslsni": "PGSSLSNI", "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION", "target_session_attrs": "PGTARGETSESSIONATTRS",
        "tcp_user_timeout": None,
    "tty": None, "user": "PGUSER",
}  # fmt: skip
# What a connection of ours cannot promise is refused rather than overlooked: each with the values that ask for nothing.
_UNSUPPORTED = {
    "channel_binding": ("disable", "prefer"), "gssencmode": ("disable", "prefer"), "replication": ("false", "off", "no",
        "0"),
    "require_auth": (), "requirepeer": (), "scram_client_key": (), "scram_server_key": (), "sslcertmode": ("allow",),
    "sslcrldir": (), "sslkeylogfile": (), "oauth_issuer": (), "oauth_client_id": (), "oauth_client_secret": (),
        "oauth_scope": (),
}  # fmt: skip
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
}
# Files and directories: any bytes. The system reads their names in the locale.
_PATHS = frozenset({"host", "passfile", "servicefile", "sslcert", "sslcrl", "sslkey", "sslrootcert"})
SOCKET_DIRECTORIES = ("/run/postgresql", "/var/run/postgresql", "/tmp")  # noqa: S108 - where servers put their sockets


class ConninfoError(ValueError):
    """A connection string cannot be used; the text says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """One server of a connection string: a name or socket directory, the address where one is given, the port."""

    host: str
    address: str | None
    port: int

    def __str__(self) -> str:
        if self.host.startswith("/"):
            return f"{self.host}/.s.PGSQL.{self.port}"
        host = self.host or self.address or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Conninfo:
    """A connection string with everything that it leaves to service files and variables."""

    __slots__ = ("_given", "_variables")

    def __init__(self, given: Mapping[str, str], variables: Mapping[str, str] | None = None) -> None:
        """Takes `variables`: the environment variables that parameters come from."""
        self._given = dict(given)
        self._variables = dict(variables or {})

    def __repr__(self) -> str:
        return "Conninfo(<redacted>)"

    def get(self, name: str) -> str | None:
        """Gives the value of a parameter, None if it is unset or empty."""
        return self._given.get(name) or None

    def given(self) -> Iterator[tuple[str, str]]:
        """Gives the parameters that are set, with their values."""
        yield from self._given.items()

    def with_variable(self, error: ConninfoError) -> ConninfoError:
        """Gives the same error with the environment variable that its parameter comes from."""
        text = str(error)
        name = re.match(r"\w*", text)
        variable = self._variables.get(name[0]) if name is not None else None
        return error if variable is None else ConninfoError(f"environment variable {variable}: {text}")

    def with_login(self, user: str, password: str) -> Conninfo:
        """Gives the same servers and database with another login and its password, never the password of a variable or
        file.
        """
        if not user or not password:
            raise ConninfoError("a login needs a name and a password")
        return Conninfo({**self._given, "dbname": self.database, "user": user, "password": password}, self._variables)

    @property
    def user(self) -> str:
        found = self.get("user")
        if found is None:
            try:
                return getpass.getuser()
            except (OSError, KeyError):
                raise ConninfoError("the user is not given, and this process has no user's name") from None
        return found

    @property
    def database(self) -> str:
        return self.get("dbname") or self.user

    @property
    def connect_timeout(self) -> float | None:
        """Gives the timeout in seconds; None (no limit) if it is unset, or 0 or less."""
        return _number("connect_timeout", self.get("connect_timeout") or "0") or None

    @property
    def places(self) -> list[Place]:
        """Gives the servers in the order in which to try them. Raises ConninfoError."""
        hosts = self.get("host")
        addresses = self.get("hostaddr")
        names = hosts.split(",") if hosts else []
        numbers = addresses.split(",") if addresses else []
        if names and numbers and len(names) != len(numbers):
            raise ConninfoError(f"host names {len(names)} servers and hostaddr {len(numbers)}")
        ports = (self.get("port") or "").split(",")
        count = len(names) or len(numbers)
        if len(ports) not in (1, count or 1):
            raise ConninfoError(f"port names {len(ports)} ports for {count or 1} servers")
        checked = [_port(text) for text in ports]
        if not count:
            return [Place(directory, None, checked[0]) for directory in (*SOCKET_DIRECTORIES, "localhost")]
        found = []
        for number in range(count):
            host = names[number] if names else ""
            address = (numbers[number] if numbers else "") or None
            if host.startswith("@"):
                raise ConninfoError("host: abstract Unix sockets are not supported")
            if not host and address is None:
                host = "localhost"
            found.append(Place(host, address, checked[number] if len(checked) > 1 else checked[0]))
        return found

    def password(self, place: Place) -> str | None:
        """Gives the password for a server: the given one, or that of the password file."""
        given = self.get("password")
        if given is not None:
            return given
        names = {place.host or place.address or ""}
        if place.host.startswith("/"):
            names.add("localhost")
        for fields in _password_lines(self._password_file()):
            wanted = (None, str(place.port), self.database, self.user)
            if (fields[0] == "*" or fields[0] in names) and all(
                field in ("*", value) for field, value in zip(fields[1:4], wanted[1:], strict=True)
            ):
                return fields[4]
        return None

    @property
    def ignored_password_file(self) -> Path | None:
        """Gives the password file that is ignored, as in libpq, because others may read it."""
        path = self._password_file()
        return path if self.get("password") is None and path is not None and _open_to_others(path) else None

    def _password_file(self) -> Path | None:
        named = self.get("passfile")
        if named is not None:
            return Path(named)
        home = _home()
        return None if home is None else home / ".pgpass"

    def option_names(self) -> set[str]:
        """Names the settings that `options` sets."""
        return {
            match[1].lower().replace("-", "_")
            for match in re.finditer(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)\s*=", self.get("options") or "")
        }


def read(text: str | None) -> Conninfo:
    """Reads a URI, a keyword string, or None or an empty text for service files and variables. Raises ConninfoError."""
    text = as_utf8(text or "")
    given = dict(_pairs(text))
    _check_signs(text)
    _add_service(given)
    variables = {}
    for name, variable in PARAMETERS.items():
        value = os.environ.get(variable) if variable is not None else None
        if variable is not None and value and name not in given and variable not in ("PGSERVICE", "PGREQUIRESSL"):
            given[name] = value if name in _PATHS else as_utf8(value)
            variables[name] = variable
    if given.pop("requiressl", os.environ.get("PGREQUIRESSL", "0"))[:1] == "1":
        given.setdefault("sslmode", "require")
    conninfo = Conninfo(given, variables)
    try:
        _check(conninfo)
    except ConninfoError as error:
        raise conninfo.with_variable(error) from None
    return conninfo


def _check_signs(text: str) -> None:
    """Raises ConninfoError for a URI with a further @, which libpq takes as a part of the server's name or of the
    database's: what stands before it is a piece of a password as a rule, and would be shown with these."""
    rest = text.partition("://")[2].partition("?")[0] if text.startswith(("postgresql://", "postgres://")) else ""
    if "@" in re.sub(r"^[^@/]*@", "", rest):
        raise ConninfoError(
            "there is an @ behind the login's: in a user, a password, a server or a database @ / : ? # are written as "
            "%40 %2F %3A %3F %23"
        )


def _check(conninfo: Conninfo) -> None:
    """Raises ConninfoError for what cannot be used."""
    for name, harmless in _UNSUPPORTED.items():
        value = conninfo.get(name)
        if value is not None and value not in harmless:
            raise ConninfoError(
                f"{name} is not supported here" + (f": leave it out, or {harmless[-1]}" if harmless else "")
            )
    for name, value in conninfo.given():
        if name not in _PATHS and any("\ud800" <= char <= "\udfff" for char in value):
            raise ConninfoError(f"{name} is not UTF-8")
    for name, choices in _CHOICES.items():
        value = conninfo.get(name)
        if value is not None and value not in choices:
            raise ConninfoError(f"{name} is one of {', '.join(choices)}")
    conninfo.connect_timeout  # noqa: B018 - raises
    conninfo.places  # noqa: B018


def has_password(text: str) -> bool:
    """Says whether a connection string itself contains a password. Raises ConninfoError."""
    return any(name in ("password", "sslpassword") and value for name, value in _pairs(text))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    return _uri(text) if text.startswith(("postgresql://", "postgres://")) else _keywords(text)


def _number(name: str, text: str) -> int:
    try:
        return max(0, int(text))
    except ValueError:
        raise ConninfoError(f"{name} is not a whole number") from None


def _port(text: str) -> int:
    port = _number("port", text.strip() or "5432")
    if not 1 <= port <= 65535:
        raise ConninfoError("port is not between 1 and 65535")
    return port


def _known(name: str, where: str) -> str:
    if name in PARAMETERS:
        return name
    # What stands there may be a piece of a password: it is not repeated.
    close = difflib.get_close_matches(name, PARAMETERS, 1)
    raise ConninfoError(f"{where} is none that libpq has" + (f"; did you mean {close[0]}?" if close else ""))


def _uri(text: str) -> Iterator[tuple[str, str]]:
    rest = text.partition("://")[2]
    match = re.match(r"([^@/]*)@", rest)
    if match:
        user, colon, password = match[1].partition(":")
        if user:
            yield "user", _decoded(user, "user")
        if colon and password:
            yield "password", _decoded(password, "password")
        rest = rest[match.end() :]
    servers = re.match(r"[^/?]*", rest)
    assert servers is not None
    rest = rest[servers.end() :]
    hosts, ports = [], []
    for server in servers[0].split(","):
        found = re.fullmatch(r"(?:\[([^\]]+)\]|((?!\[)[^:]*))(?::(.*))?", server)
        if found is None:
            raise ConninfoError(
                "a server is not host, host:port or [IPv6 address]:port; characters such as : @ / are written as %3A "
                "%40 %2F"
            )
        hosts.append(_decoded(found[1] or found[2], "host"))
        ports.append(_decoded(found[3] or "", "port"))
    if len(hosts) > 1 or hosts[0]:
        yield "host", ",".join(hosts)
    if len(ports) > 1 or ports[0]:
        yield "port", ",".join(ports)
    path, _, query = rest.partition("?")
    if len(path) > 1:
        yield "dbname", _decoded(path[1:], "dbname")
    for number, pair in enumerate(query.split("&") if query else [], 1):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConninfoError(f"parameter {number} after the ? has no =")
        if "=" in value:
            raise ConninfoError(f"parameter {number} after the ? has a second =; write it as %3D")
        name, value = _decoded(name, "a parameter's name"), _decoded(value, f"parameter {number} after the ?")
        if (name, value) == ("ssl", "true"):
            name, value = "sslmode", "require"
        yield _known(name, f"parameter {number} after the ?"), value


def _decoded(text: str, what: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ConninfoError(f"{what}: a % is not followed by two hexadecimal digits; write % itself as %25")
    text = text.strip(" ")
    if " " in text:
        raise ConninfoError(f"{what}: it holds a space; write that as %20")
    if "%00" in text:
        raise ConninfoError(f"{what}: %00 is not allowed")
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def as_utf8(text: str) -> str:
    """Reads as UTF-8 what the locale could not read of the command line or the environment, such as ü with LC_ALL=C."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


_PAIR = re.compile(r"\s*([^\s=]+)\s*(=?)\s*")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'(?=\s|$)", re.DOTALL)
# A backslash at the end stands for nothing (conninfo_parse() in src/interfaces/libpq/fe-connect.c).
_BARE = re.compile(r"((?:[^\s\\]|\\.|\\\Z)*)", re.DOTALL)


def _keywords(text: str) -> Iterator[tuple[str, str]]:
    position, number = 0, 0
    text = text.strip()
    while position < len(text):
        number += 1
        pair = _PAIR.match(text, position)
        if pair is None or not pair[2]:
            raise ConninfoError(
                "not a URI such as postgresql://user@host/database, and not a string such as 'host=... dbname=...': "
                f"no = behind word {number}"
            )
        name = _known(pair[1], f"parameter {number}")
        position = pair.end()
        form = _QUOTED if text[position : position + 1] == "'" else _BARE
        value = form.match(text, position)
        if value is None:
            raise ConninfoError(f"{name}: its quoted value does not end")
        position = value.end()
        yield name, re.sub(r"\\(.|\Z)", r"\1", value[1], flags=re.DOTALL)


def _add_service(given: dict[str, str]) -> None:
    """Adds what the service's section sets and the string does not."""
    service = given.get("service") or os.environ.get("PGSERVICE")
    if not service:
        return
    try:
        _add_section(given, service)
    except ConninfoError as error:
        raise error if given.get("service") else ConninfoError(f"environment variable PGSERVICE: {error}") from None


def _add_section(given: dict[str, str], service: str) -> None:
    named = given.get("servicefile") or os.environ.get("PGSERVICEFILE")
    home = _home()
    files = [Path(named)] if named else [home / ".pg_service.conf"] if home is not None else []
    system = os.environ.get("PGSYSCONFDIR")
    files += [Path(directory) / "pg_service.conf" for directory in ([system] if system else _SYSTEM_DIRECTORIES)]
    for number, path in enumerate(files):
        try:
            section = _section(path, service)
        except FileNotFoundError:
            if named and number == 0:
                raise ConninfoError(f"service file {path}: no such file (servicefile, PGSERVICEFILE)") from None
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConninfoError(f"service file {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        if section is not None:
            for name, value in section.items():
                given.setdefault(name, value)
            return
    raise ConninfoError(f"service: no section of that name in {' or '.join(map(str, files))}")


_SYSTEM_DIRECTORIES = ("/etc/postgresql-common", "/usr/local/etc/postgresql", "/etc/sysconfig/pgsql")


def _section(path: Path, service: str) -> dict[str, str] | None:
    found: dict[str, str] | None = None
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                return found
            if line == f"[{service}]":
                found = {}
            continue
        if found is None:
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ConninfoError(f"service file {path}, line {number}: no =")
        name = _known(name.strip(), f"service file {path}, line {number}: the parameter")
        if name in ("service", "servicefile"):
            raise ConninfoError(f"service file {path}, line {number}: a service cannot name another")
        found.setdefault(name, value.strip())
    return found


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _open_to_others(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False


def _password_lines(path: Path | None) -> Iterator[list[str]]:
    """Yields the lines of a password file as their five fields; none of a file that others may read."""
    if path is None or _open_to_others(path):
        return
    try:
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        if line and not line.startswith("#"):
            fields = [re.sub(r"\\(.)", r"\1", field) for field in re.findall(r"((?:[^:\\]|\\.|\\$)*)(?::|$)", line)]
            if len(fields) >= 5:
                yield fields[:5]
