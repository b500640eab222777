"""The settings model: TOML file, SECRETPROXY_* environment, command line, in rising order of precedence.

Every setting has its default and its meaning here and nowhere else; config.example.toml is printed from it.
A file that cannot be used raises ConfigError, whose text names the setting and the values that it accepts.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

DEFAULT_FILE = Path("secretproxy.toml")
# Variables with our prefix that are not settings.
NOT_SETTINGS = frozenset({"SECRETPROXY_CONFIG", "SECRETPROXY_PG_BIN", "SECRETPROXY_COMPILE"})


class ConfigError(Exception):
    """The configuration cannot be used; the text names the setting and the fix."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class Host(Section):
    """One backend address: a TCP host and port, or the directory of a Unix socket."""

    host: str
    port: int = Field(ge=1, le=65535)

    @property
    def is_unix(self) -> bool:
        return self.host.startswith(("/", "@"))

    @property
    def socket_path(self) -> str:
        return f"{self.host}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        if self.is_unix:
            return self.socket_path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Host:
        """Parses `host`, `host:port`, `[ipv6]:port`, `/socket/dir` or `/socket/dir:port`; the port defaults to 5432.

        Raises ValueError.
        """
        match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,5}))?", text)
        if not text.startswith("/") and ("@" in text or "://" in text):
            # It may have a password.
            raise ValueError("a server is host:port, [ipv6]:port or a socket directory: no URI, and without a login")
        if match is None:
            raise ValueError(f"{text!r} is not host:port, [ipv6]:port or a socket directory")
        port = int(match["port"] or 5432)
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} is not between 1 and 65535")
        return cls(host=match["six"] or match["name"], port=port)


class KeepaliveSettings(Section):
    """Settings of TCP connections that detect a vanished peer. 0 keeps the system's own value."""

    tcp_keepalives_idle: int = Field(
        300, ge=0, description="Seconds without a byte before a TCP peer is probed; 0: the system's value"
    )
    tcp_keepalives_interval: int = Field(30, ge=0, description="Seconds between two probes; 0: the system's value")
    tcp_keepalives_count: int = Field(
        4, ge=0, description="Unanswered probes before the connection is lost; 0: the system's value"
    )
    tcp_user_timeout: int = Field(
        0,
        ge=0,
        description="Milliseconds that sent bytes may stay unacknowledged before the connection is lost; 0: the "
        "system's value",
    )


class ListenSettings(KeepaliveSettings):
    host: str = Field("127.0.0.1", description="Address to listen on; empty: only the Unix socket")
    port: int = Field(
        6432, ge=0, le=65535, description="TCP port, and the number in the Unix socket's name; 0: a free one"
    )
    unix_socket_dir: Path | None = Field(None, description="Directory of the Unix socket; unset: none")
    max_sessions: int = Field(
        1000, ge=1, description="Most sessions at once over all workers; more are refused with 53300"
    )
    max_connections: int = Field(
        0,
        ge=0,
        description="Most connections at once over all workers, including those that are not sessions yet; 0: twice "
        "max_sessions",
    )
    login_timeout: float = Field(60.0, gt=0, description="Seconds that a client may take to log in")
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that open transactions get to finish after SIGTERM")
    tls: Literal["off", "allow", "require"] = Field("off", description="TLS to clients: off, allow or require")
    tls_cert: Path | None = Field(None, description="PEM certificate chain of the proxy")
    tls_key: Path | None = Field(None, description="PEM private key of the certificate")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM authorities that must have issued client certificates; unset: clients need no certificate",
    )
    tls_min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest TLS version that a client may use")


class BackendSettings(KeepaliveSettings):
    hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["127.0.0.1:5432"],
        description="PostgreSQL servers, tried in order: host:port, [ipv6]:port or a socket directory[:port]",
    )
    target_session_attrs: Literal["any", "read-write", "read-only", "primary", "standby", "prefer-standby"] = Field(
        "any", description="Kind of server to connect to, as in libpq"
    )
    monitor_dsn: SecretStr | None = Field(
        None,
        description="Login that asks each of backend.hosts for its role, if auth.mode is passthrough and "
        "target_session_attrs "
        "is not any; the DSN's own hosts are ignored; unset: the login of audit.dsn",
    )
    monitor_interval: float = Field(1.0, gt=0, description="Seconds between two such queries to one server")
    connect_timeout: float = Field(10.0, gt=0, description="Seconds to reach one address of a server")
    tls: Literal["off", "prefer", "require", "verify-full"] = Field(
        "off", description="TLS to the backend: off, prefer, require or verify-full"
    )
    tls_ca: Path | None = Field(None, description="PEM authorities that must have issued the backend's certificate")
    tls_cert: Path | None = Field(None, description="PEM certificate that the proxy shows to the backend")
    tls_key: Path | None = Field(None, description="PEM private key of that certificate; unset: in the same file")

    @field_validator("hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _comma_list(value)

    @field_validator("hosts")
    @classmethod
    def _check(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one server")
        for host in value:
            Host.parse(host)
        return value

    @property
    def addresses(self) -> list[Host]:
        return [Host.parse(host) for host in self.hosts]


class AuthSettings(Section):
    mode: Literal["passthrough", "scram"] = Field(
        "passthrough",
        description="passthrough: the backend authenticates clients and the proxy relays; scram: the proxy "
        "authenticates them",
    )
    users_file: Path | None = Field(
        None,
        description='File with one line `"user" "SCRAM-SHA-256$..."` per user for mode scram; SIGHUP reads it again',
    )
    lookup_dsn: SecretStr | None = Field(
        None,
        description="Database and login of lookup_query, for mode scram without users_file",
    )
    lookup_query: str = Field(
        "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN NULL ELSE rolpassword END"
        " FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin",
        description="Query for a user's verifier: $1 is the name, the second column of the answer is the verifier",
    )
    lookup_cache: float = Field(
        10.0,
        ge=0,
        description="Seconds that an answer of lookup_query is cached, also that there is no verifier; 0: not cached",
    )
    failures_per_address: int = Field(
        20,
        ge=0,
        description="Failed logins per minute from one address before mode scram refuses the address; 0: no limit",
    )
    failures_per_user: int = Field(
        100,
        ge=0,
        description="Failed logins per minute for one user before mode scram refuses addresses from which the user "
        "has not "
        "logged in; 0: no limit",
    )
    failure_delay: float = Field(0.5, ge=0, description="Seconds before mode scram answers a failed login")


class MonitorSettings(Section):
    schemas: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["encrypted_secrets"],
        description="Schemas whose functions are secret functions",
    )
    tables: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["secrets_schema.secrets_table"],
        description="Tables whose direct use is recorded",
    )
    name_patterns: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: [
            r"sk_(live|test)_",
            r"gh[pousr]_[A-Za-z0-9]",
            r"xox[abprs]-",
            r"AKIA[0-9A-Z]{12}",
            r"-----BEGIN ",
            r"eyJ[A-Za-z0-9_-]{8,}\.",
            r"://[^/\s:]+:[^/\s@]+@",
        ],
        description="Regular expressions; a secret's name that one of them matches is logged as a digest",
    )

    catalog_refresh: float = Field(
        30.0,
        ge=0,
        description="Seconds between two looks at a database's catalog for what leads to a secret function; 0: never "
        "look",
    )

    @field_validator("schemas", "tables", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _comma_list(value)

    @field_validator("name_patterns", mode="before")
    @classmethod
    def _split_patterns(cls, value: object) -> object:
        return value.split() if isinstance(value, str) else value

    @field_validator("schemas")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one schema")
        return value

    @field_validator("tables")
    @classmethod
    def _qualified(cls, value: list[str]) -> list[str]:
        for table in value:
            if table.count(".") != 1:
                raise ValueError(f"{table!r} is not schema.table")
        return value

    @field_validator("name_patterns")
    @classmethod
    def _compile(cls, value: list[str]) -> list[str]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return value


class AuditSettings(Section):
    dsn: SecretStr | None = Field(
        None,
        description="Database of the access log, with a login that is a member of secretproxy_writer; unset: the "
        "backend, with "
        "the login of the PG* variables",
    )
    review_dsn: SecretStr | None = Field(
        None,
        description="The same database, with a member of secretproxy_auditor, for `audit`, `doctor` and `verify` "
        "without --dsn; "
        "unset: the PG* variables. By --dsn or PG*, give `verify` a superuser or the role that installed, and `audit "
        "retention` the "
        "log's owner",
    )
    on_outage: Literal["refuse", "spool"] = Field(
        "refuse",
        description="While the log cannot be written, refuse: refuse secret calls; spool: write events to a local file",
    )
    spool_dir: Path | None = Field(None, description="Directory of the spool for on_outage = spool, on a local disk")
    spool_max_bytes: int = Field(
        256 * 1024 * 1024, ge=65_536, description="Most bytes that a process spools; then it refuses secret calls"
    )
    timeout: float = Field(
        5.0, gt=0, description="Seconds that a write to the log may take before secret calls are refused"
    )
    retention: str | None = Field(
        None, description="How long `audit retention` keeps months of the log, such as 400 days; unset: forever"
    )
    checkpoint_key_file: Path | None = Field(
        None, description="Ed25519 key that signs checkpoints, created if it is missing; unset: no checkpoints"
    )
    checkpoint_file: Path | None = Field(
        None,
        description="File to which checkpoints are appended, in addition to the table; keep it out of reach of the "
        "log's administrators",
    )
    checkpoint_command: str | None = Field(
        None, description="Command that gets each checkpoint as a line on its standard input, to store it elsewhere"
    )
    checkpoint_every: int = Field(10_000, ge=1, description="Events between two checkpoints")
    checkpoint_seconds: float = Field(
        60.0, gt=0, description="Seconds between two checkpoints, if there are new events"
    )


class TestimonySettings(Section):
    key_file: Path = Field(
        Path("secretproxy.key"), description="File with the keys of testimony and session token; `install` creates it"
    )


class LimitSettings(Section):
    max_message: int = Field(1_073_741_823, ge=1024, description="Bytes of the longest message that a client may send")
    max_statement_memory: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Bytes of the longest statement that is parsed",
    )
    large_statements: Literal["forward", "refuse"] = Field(
        "forward",
        description="Statements longer than that; forward: rely on testimony alone; refuse: refuse with 54000",
    )
    max_prepared: int = Field(
        1000,
        ge=1,
        description="Most prepared statements, portals and cursors with secret calls in a session; more get 54000",
    )
    hold_timeout: float = Field(
        10.0, gt=0, description="Seconds that an answer is held for the log before the session ends"
    )
    parse_thread_bytes: int = Field(
        8192,
        ge=0,
        description="Statements longer than this, or with more than 256 non-word characters, are parsed in another "
        "process",
    )
    parse_processes: int = Field(2, ge=1, le=64, description="Most processes that parse such statements")
    parse_timeout: float = Field(
        2.0,
        gt=0,
        description="Seconds that such a process may take for a statement; then the statement is judged by its words",
    )
    max_name: int = Field(200, ge=1, description="Bytes of the longest secret name that is logged in clear text")


class HealthSettings(Section):
    host: str = Field("127.0.0.1", description="Address of /healthz, /readyz, /logz and /metrics")
    port: int = Field(0, ge=0, le=65535, description="Port of /healthz, /readyz, /logz and /metrics; 0: off")
    probe_interval: float = Field(
        5.0,
        ge=0,
        description="Seconds between two probes of the log and the backend, with a random variation of up to a fifth; "
        "0: no probes, only "
        "sessions notice an outage",
    )


class ConsoleSettings(Section):
    url: str | None = Field(
        None, description="Address at which browsers reach the console, such as https://log.example:6480; for OIDC"
    )
    oidc_issuer: str | None = Field(
        None, description="OpenID Connect provider at which auditors sign in; unset: with a password alone"
    )
    oidc_client_id: str | None = Field(None, description="Name of the console at the provider")
    oidc_client_secret: SecretStr | None = Field(None, description="Secret of the console at the provider")
    oidc_scope: str = Field("openid email", description="What the provider is asked for")
    oidc_claim: str = Field(
        "email", description="Claim that says who somebody is; email counts only if the provider has verified it"
    )
    oidc_logins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Who may sign in at the provider, and the PostgreSQL login of each: claim=login",
    )
    oidc_dsn: SecretStr | None = Field(
        None,
        description="The log's database, with a login without INHERIT that was granted each of these logins, and "
        "reads as the one who signed in",
    )

    @field_validator("oidc_logins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _comma_list(value)

    @field_validator("oidc_logins")
    @classmethod
    def _pairs(cls, value: list[str]) -> list[str]:
        known = set()
        for pair in value:
            claim, _, login = pair.rpartition("=")
            if not claim or not login or len(login.encode()) > 63:
                raise ValueError(f"{pair!r} is not claim=login")
            if claim in known:
                raise ValueError(f"{claim!r} is mapped twice")
            known.add(claim)
        return value

    @field_validator("url", "oidc_issuer")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(
            r"https://[^/?#@\s]+(/[^?#\s]*)?|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/[^?#\s]*)?", value
        ):
            raise ValueError("it must be an address with https, or with http on this machine")
        return value

    @property
    def logins(self) -> dict[str, str]:
        """Gives the PostgreSQL login of each claim."""
        return {claim: login for claim, _, login in (pair.rpartition("=") for pair in self.oidc_logins)}


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    format: Literal["console", "json"] = Field("console", description="console for people, json for machines")
    sessions: bool = Field(False, description="Log each session's login and end at level info")


class Settings(BaseSettings):
    """All settings. Build it with load_settings()."""

    model_config = SettingsConfigDict(
        env_prefix="SECRETPROXY_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
    )

    workers: int = Field(1, ge=0, le=256, description="Processes that share the port; 0: one per core")
    listen: ListenSettings = Field(default_factory=lambda: ListenSettings())  # type: ignore[call-arg]
    backend: BackendSettings = Field(default_factory=lambda: BackendSettings())  # type: ignore[call-arg]
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings())  # type: ignore[call-arg]
    monitor: MonitorSettings = Field(default_factory=lambda: MonitorSettings())  # type: ignore[call-arg]
    audit: AuditSettings = Field(default_factory=lambda: AuditSettings())  # type: ignore[call-arg]
    testimony: TestimonySettings = Field(default_factory=lambda: TestimonySettings())  # type: ignore[call-arg]
    limits: LimitSettings = Field(default_factory=lambda: LimitSettings())  # type: ignore[call-arg]
    health: HealthSettings = Field(default_factory=lambda: HealthSettings())  # type: ignore[call-arg]
    console: ConsoleSettings = Field(default_factory=lambda: ConsoleSettings())  # type: ignore[call-arg]
    log: LogSettings = Field(default_factory=lambda: LogSettings())  # type: ignore[call-arg]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file's values are init arguments, so the environment must come before them.
        return env_settings, init_settings

    @model_validator(mode="after")
    def _spools_somewhere(self) -> Settings:
        if self.audit.on_outage == "spool" and self.audit.spool_dir is None:
            raise ValueError("audit.on_outage is spool: name a directory with audit.spool_dir")
        return self

    @model_validator(mode="after")
    def _knows_its_users(self) -> Settings:
        if self.auth.mode == "scram" and self.auth.users_file is None and self.auth.lookup_dsn is None:
            raise ValueError(
                "auth.mode is scram: name the users with auth.users_file, or where to look them up with auth.lookup_dsn"
            )
        return self

    @model_validator(mode="after")
    def _knows_its_provider(self) -> Settings:
        console = self.console
        needed = ("url", "oidc_client_id", "oidc_client_secret", "oidc_logins", "oidc_dsn")
        missing = [f"console.{name}" for name in needed if not getattr(console, name)]
        if console.oidc_issuer is not None and missing:
            raise ValueError(f"console.oidc_issuer is set: set {', '.join(missing)} too")
        return self

    @model_validator(mode="after")
    def _listens_somewhere(self) -> Settings:
        if not self.listen.host and self.listen.unix_socket_dir is None:
            raise ValueError("listen.host is empty and listen.unix_socket_dir is unset: nothing to listen on")
        return self

    @property
    def worker_count(self) -> int:
        return self.workers or os.cpu_count() or 1


def config_file(config: Path | None) -> Path | None:
    """Gives the file to read: `--config`, then $SECRETPROXY_CONFIG, then ./secretproxy.toml if it exists."""
    if config is not None:
        return config
    named = os.environ.get("SECRETPROXY_CONFIG")
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def revealed(dsn: SecretStr | None) -> str | None:
    """Gives a connection string in clear text; None if the setting is unset."""
    return None if dsn is None else dsn.get_secret_value()


def socket_file(directory: Path, port: int) -> Path:
    """Gives the file of a server's Unix socket (UNIXSOCK_PATH of src/include/libpq/pqcomm.h)."""
    return directory / f".s.PGSQL.{port}"


def review_database(dsn: str | None, config: Path | None) -> str | None:
    """Gives the database that a command reads: --dsn, then audit.review_dsn; None for the PG* variables. Raises
    ConfigError."""
    if dsn is not None and config is None:
        return dsn
    found = revealed(load_settings(config).audit.review_dsn)
    if dsn is not None or found is None:
        return dsn
    from secretproxy.connections import ConninfoError, read

    try:
        read(found)
    except ConninfoError as error:
        variable = _variable("audit.review_dsn")
        source = f"{config_file(config)}" if variable is None else f"environment variable {variable}"
        raise ConfigError(f"{source}: audit.review_dsn cannot be used: {error}") from None
    return found


def load_settings(config: Path | None = None) -> Settings:
    """Reads the file and the environment. Raises ConfigError."""
    path = config_file(config)
    values: dict[str, Any] = {}
    if path is not None:
        how = " ($SECRETPROXY_CONFIG)" if config is None and os.environ.get("SECRETPROXY_CONFIG") else ""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file{how}; name the configuration with --config FILE, or write one with "
                "`secretproxy init`"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot be read{how}: {getattr(error, 'strerror', None) or 'not UTF-8'}"
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _check_environment()
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, path))) from None


def _check_environment() -> None:
    for name in os.environ:
        # The names of variables are case-insensitive.
        if not name.upper().startswith("SECRETPROXY_") or name in NOT_SETTINGS:
            continue
        section, _, key = name.upper().removeprefix("SECRETPROXY_").lower().partition("_")
        field = Settings.model_fields.get(section)
        if field is None or bool(key) == (section == "workers"):
            raise ConfigError(f"environment variable {name}: {_no_such('.'.join(filter(None, (section, key))))}")


def _variable(setting: str) -> str | None:
    """Gives the environment variable that sets this setting, if there is one."""
    wanted = f"SECRETPROXY_{setting.replace('.', '_').upper()}"
    return next((name for name in os.environ if name.upper() == wanted), None)


def _settings() -> list[str]:
    """Names all settings."""
    plain, sections = _sections()
    return [name for name, _ in plain] + [f"{name}.{key}" for name, model in sections for key in model.model_fields]


def _no_such(setting: str) -> str:
    near = difflib.get_close_matches(setting, _settings(), 1)
    return f"no such setting; {f'did you mean {near[0]}?' if near else 'see config.example.toml'}"


def _nothing_such(name: str) -> str:
    """Explains an unknown name outside the file's sections."""
    plain, sections = _sections()
    near = difflib.get_close_matches(
        name, [f"[{section}]" for section, _ in sections] + [setting for setting, _ in plain], 1
    )
    return (
        "no such section or setting outside sections; "
        f"{f'did you mean {near[0]}?' if near else 'see config.example.toml'}"
    )


def _explain(error: ValidationError, path: Path | None) -> list[str]:
    """Gives a line for each error, with the source of the value: the environment overrides the file."""
    lines = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        setting = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        message = re.sub("^Input should be ", "it must be ", item["msg"].removeprefix("Value error, "))
        if item["type"] == "extra_forbidden":
            message = _no_such(setting) if "." in setting else _nothing_such(setting)
        # An error of several settings names them in its text.
        named = (
            [setting] if setting else [known for known in _settings() if re.search(rf"\b{re.escape(known)}\b", message)]
        )
        variable = next(filter(None, map(_variable, named)), None)
        source = (
            f"environment variable {variable}: " if variable is not None else f"{path}: " if path is not None else ""
        )
        lines.append(source + (f"{setting}: {message}" if setting else message))
    return lines


def _sections() -> tuple[list[tuple[str, FieldInfo]], list[tuple[str, type[BaseModel]]]]:
    """Gives the settings outside sections, and the sections."""
    plain: list[tuple[str, FieldInfo]] = []
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in Settings.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            sections.append((name, annotation))
        else:
            plain.append((name, field))
    return plain, sections


def example() -> str:
    """Gives the text of config.example.toml: every setting with its meaning and its default."""
    out = [
        "# Every setting of secretproxy with its default. The environment overrides this file:",
        "# SECRETPROXY_LISTEN_PORT=6432 is [listen] port. Settings that are comments are unset by default.",
        "",
    ]
    plain, sections = _sections()
    out += [_line(name, _default(field), field.description) for name, field in plain]
    for name, model in sections:
        out += ["", f"[{name}]"]
        out += [_line(key, _default(field), field.description) for key, field in model.model_fields.items()]
    return "\n".join(out) + "\n"


# The settings that a new installation has to decide.
_FIRST = (
    "listen.host", "listen.port", "backend.hosts", "audit.dsn", "audit.review_dsn", "testimony.key_file", "health.host",
        "health.port",
)  # fmt: skip


def starter(values: dict[str, object]) -> str:
    """Gives a first configuration: it sets what you have to decide, to `values` or the default; the rest is commented
    out."""
    out = ["# Settings of secretproxy. Lines that begin with # show defaults. The environment overrides this file:",
           "# SECRETPROXY_LISTEN_PORT=6432 is [listen] port.", ""]  # fmt: skip
    plain, sections = _sections()
    for section, fields in [("", plain), *((name, list(model.model_fields.items())) for name, model in sections)]:
        out += ["", f"[{section}]"] if section else []
        for key, field in fields:
            setting = f"{section}.{key}" if section else key
            value = values.get(setting, _default(field))
            line = _line(key, value, field.description)
            if value is not None and setting not in values and setting not in _FIRST:
                comment, _, assignment = line.rpartition("\n")
                line = f"{comment}\n# {assignment}"
            out.append(line)
    return "\n".join(out) + "\n"


def reference() -> str:
    """Gives the text of docs/configuration.md."""
    out = [
        "# Configuration",
        "",
        "Settings come from the TOML file (`--config FILE`, else `$SECRETPROXY_CONFIG`, else",
        "`./secretproxy.toml`), from the environment, and from the command line. The environment",
        "overrides the file, and the command line overrides both. The variable of `listen.port` is",
        "`SECRETPROXY_LISTEN_PORT`; separate the items of a list in it by commas. If a setting is unknown or",
        "its value is invalid, the command exits with status 2 and prints a line that names the setting.",
        "`config.example.toml` has all settings with their defaults.",
    ]
    plain, sections = _sections()
    out += _table("", plain)
    for name, model in sections:
        out += _table(name, list(model.model_fields.items()))
    return "\n".join(out) + "\n"


def _table(section: str, fields: list[tuple[str, FieldInfo]]) -> list[str]:
    rows = [
        f"## [{section}]" if section else "## Outside sections",
        "",
        "| setting | default | meaning |",
        "| --- | --- | --- |",
    ]
    for key, field in fields:
        value = _default(field)
        shown = "unset" if value is None else f"`{_toml(value)}`".replace("|", "\\|")
        rows.append(f"| `{key}` | {shown} | {field.description} |")
    return ["", *rows]


def _default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True)


def _line(key: str, value: object, meaning: str | None) -> str:
    comment = f"# {meaning}\n" if meaning else ""
    return f"{comment}# {key} =" if value is None else f"{comment}{key} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_quoted(str(item)) for item in value)}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    return f"'{text}'" if "\\" in text else f'"{text}"'
