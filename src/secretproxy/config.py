"""The one settings model: TOML file, SECRETPROXY_* environment, command line, in rising order.

Every setting has its default and its meaning here and nowhere else; config.example.toml is printed from it.
A file that cannot be used raises ConfigError, whose text names the setting and what it takes.
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
    """The configuration cannot be used; the text names the setting and the mend."""


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
        """`host`, `host:port`, `[ipv6]:port`, `/socket/dir` or `/socket/dir:port`; the port defaults to 5432."""
        match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,5}))?", text)
        if match is None:
            raise ValueError(f"{text!r} is not host:port, [ipv6]:port or a socket directory")
        port = int(match["port"] or 5432)
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} is not between 1 and 65535")
        return cls(host=match["six"] or match["name"], port=port)


class KeepaliveSettings(Section):
    """Of TCP connections: how a peer that has vanished is noticed. 0 leaves the system's own value."""

    tcp_keepalives_idle: int = Field(300, ge=0, description="Seconds without a byte until a TCP peer is probed; 0: the system's")
    tcp_keepalives_interval: int = Field(30, ge=0, description="Seconds between two probes; 0: the system's")
    tcp_keepalives_count: int = Field(
        4, ge=0, description="Probes without an answer until the connection is lost; 0: the system's"
    )
    tcp_user_timeout: int = Field(
        0,
        ge=0,
        description="Milliseconds that a TCP peer may leave sent bytes untaken before the connection is lost; 0: the system's own way",
    )


class ListenSettings(KeepaliveSettings):
    host: str = Field("127.0.0.1", description="Address to listen on; empty for Unix sockets alone")
    port: int = Field(6432, ge=0, le=65535, description="TCP port, and the number in the Unix socket's name; 0: a free one")
    unix_socket_dir: Path | None = Field(None, description="Directory of the Unix socket; unset: none")
    max_sessions: int = Field(1000, ge=1, description="Sessions at once over all workers; one more is refused with 53300")
    max_connections: int = Field(
        0, ge=0, description="Connections at once over all workers, with those that are no session yet; 0: twice max_sessions"
    )
    login_timeout: float = Field(60.0, gt=0, description="Seconds a client may take until it is logged in")
    drain_timeout: float = Field(30.0, ge=0, description="Seconds that open transactions get to finish after SIGTERM")
    tls: Literal["off", "allow", "require"] = Field("off", description="TLS towards clients: off, allow or require")
    tls_cert: Path | None = Field(None, description="PEM certificate chain of the proxy")
    tls_key: Path | None = Field(None, description="PEM private key of the certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM authorities that client certificates must come from; unset: none is asked for"
    )
    tls_min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest TLS version that a client may use")


class BackendSettings(KeepaliveSettings):
    hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["127.0.0.1:5432"],
        description="PostgreSQL servers, tried in order: host:port, [ipv6]:port or a socket directory[:port]",
    )
    target_session_attrs: Literal["any", "read-write", "read-only", "primary", "standby", "prefer-standby"] = Field(
        "any", description="Which server is good enough, as in libpq"
    )
    monitor_dsn: SecretStr | None = Field(
        None,
        description="Login that asks each of backend.hosts which kind it is, where auth.mode is passthrough and target_session_attrs "
        "is not any; the DSN's own hosts do not count; unset: the login of audit.dsn",
    )
    monitor_interval: float = Field(1.0, gt=0, description="Seconds between two such questions to one server")
    connect_timeout: float = Field(10.0, gt=0, description="Seconds to reach one address of a server")
    tls: Literal["off", "prefer", "require", "verify-full"] = Field("off", description="TLS towards the backend")
    tls_ca: Path | None = Field(None, description="PEM authorities that the backend's certificate must come from")
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
        "passthrough", description="passthrough: the backend asks and the proxy relays; scram: the proxy asks"
    )
    users_file: Path | None = Field(
        None, description='File with a line `"user" "SCRAM-SHA-256$..."` a user for mode scram, read again on SIGHUP'
    )
    lookup_dsn: SecretStr | None = Field(
        None,
        description="Database in which verifiers are looked up for mode scram, where there is no users_file, as a login of its own",
    )
    lookup_query: str = Field(
        "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN NULL ELSE rolpassword END"
        " FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin",
        description="Query for a user's verifier: $1 is the name, the second column of the answer the verifier",
    )
    lookup_cache: float = Field(
        10.0, ge=0, description="Seconds that a looked-up verifier, or that there is none, is remembered; 0: not at all"
    )
    failures_per_address: int = Field(
        20,
        ge=0,
        description="Failed logins a minute that mode scram takes from one address before it refuses more; 0: any number",
    )
    failures_per_user: int = Field(
        100,
        ge=0,
        description="Failed logins a minute that mode scram takes for one user before it refuses addresses that the user has not "
        "logged in from; 0: any number",
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
        description="Regular expressions: a secret's name that one of them finds is logged as a digest",
    )

    catalog_refresh: float = Field(
        30.0,
        ge=0,
        description="Seconds after which a database's catalog is looked at again for what leads to a secret function, 0: never at all",
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
        description="Database of the access log, as a member of secretproxy_writer; unset: the backend, as PG* say",
    )
    review_dsn: SecretStr | None = Field(
        None,
        description="The same database, as a member of secretproxy_auditor: what `audit`, `doctor` and `verify` read where --dsn is not "
        "given; unset: as PG* say. `verify` needs a superuser or who installed, `audit retention` the log's owner, by --dsn or PG*",
    )
    on_outage: Literal["refuse", "spool"] = Field(
        "refuse",
        description="While the log cannot be written: refuse secret calls, or spool events to a local file",
    )
    spool_dir: Path | None = Field(None, description="Directory of the spool for on_outage = spool, on a disk of this machine")
    spool_max_bytes: int = Field(
        256 * 1024 * 1024, ge=65_536, description="Bytes that a process may spool before secret calls are refused after all"
    )
    timeout: float = Field(5.0, gt=0, description="Seconds that a write of the log may take before secret calls are refused")
    retention: str | None = Field(
        None, description="How long `audit retention` keeps months of the log, such as 400 days; unset: for ever"
    )
    checkpoint_key_file: Path | None = Field(
        None, description="Ed25519 key that signs checkpoints, made if it is missing; unset: no checkpoints"
    )
    checkpoint_file: Path | None = Field(
        None, description="File that checkpoints are appended to, beside the table; keep it elsewhere"
    )
    checkpoint_command: str | None = Field(
        None, description="Command that gets each checkpoint as a line on its standard input, to carry it elsewhere"
    )
    checkpoint_every: int = Field(10_000, ge=1, description="Events between two checkpoints")
    checkpoint_seconds: float = Field(60.0, gt=0, description="Seconds between two checkpoints, where there are new events")


class TestimonySettings(Section):
    key_file: Path = Field(Path("secretproxy.key"), description="Keys of testimony and session token; `install` makes it")


class LimitSettings(Section):
    max_message: int = Field(1_073_741_823, ge=1024, description="Bytes of the longest message taken from a client")
    max_statement_memory: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Bytes of the longest statement that is parsed",
    )
    large_statements: Literal["forward", "refuse"] = Field(
        "forward", description="A longer statement than that: forward it under testimony, or refuse it with 54000"
    )
    max_prepared: int = Field(
        1000,
        ge=1,
        description="Prepared statements with secret calls that a session may have, and portals and cursors; one more gets 54000",
    )
    hold_timeout: float = Field(10.0, gt=0, description="Seconds that an answer is held for the log before the session ends")
    parse_thread_bytes: int = Field(
        8192, ge=0, description="Statements longer than this, or with more than 256 signs and gaps, are parsed in another process"
    )
    parse_processes: int = Field(2, ge=1, le=64, description="Processes that parse such statements, at most")
    parse_timeout: float = Field(
        2.0, gt=0, description="Seconds that such a process may take for a statement, which is judged by its words after that"
    )
    max_name: int = Field(200, ge=1, description="Bytes of the longest secret name that is logged in clear")


class HealthSettings(Section):
    host: str = Field("127.0.0.1", description="Address of /healthz, /readyz, /logz and /metrics")
    port: int = Field(0, ge=0, le=65535, description="Port of /healthz, /readyz, /logz and /metrics; 0: off")
    probe_interval: float = Field(
        5.0,
        ge=0,
        description="Seconds between two looks at the log and at the backend, each up to a fifth sooner or later; 0: what is down is known "
        "when a session meets it",
    )


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    format: Literal["console", "json"] = Field("console", description="console for people, json for machines")
    sessions: bool = Field(False, description="Whether each session's login and end are lines of level info")


class Settings(BaseSettings):
    """All settings. Build it with load_settings()."""

    model_config = SettingsConfigDict(
        env_prefix="SECRETPROXY_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
    )

    workers: int = Field(1, ge=0, le=256, description="Processes sharing the port; 0: one a core")
    listen: ListenSettings = Field(default_factory=lambda: ListenSettings())  # type: ignore[call-arg]
    backend: BackendSettings = Field(default_factory=lambda: BackendSettings())  # type: ignore[call-arg]
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings())  # type: ignore[call-arg]
    monitor: MonitorSettings = Field(default_factory=lambda: MonitorSettings())  # type: ignore[call-arg]
    audit: AuditSettings = Field(default_factory=lambda: AuditSettings())  # type: ignore[call-arg]
    testimony: TestimonySettings = Field(default_factory=lambda: TestimonySettings())  # type: ignore[call-arg]
    limits: LimitSettings = Field(default_factory=lambda: LimitSettings())  # type: ignore[call-arg]
    health: HealthSettings = Field(default_factory=lambda: HealthSettings())  # type: ignore[call-arg]
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
        # The file's values come in as init arguments, so the environment must stand before them.
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
    def _listens_somewhere(self) -> Settings:
        if not self.listen.host and self.listen.unix_socket_dir is None:
            raise ValueError("listen.host is empty and listen.unix_socket_dir is unset: nothing to listen on")
        return self

    @property
    def worker_count(self) -> int:
        return self.workers or os.cpu_count() or 1


def config_file(config: Path | None) -> Path | None:
    """The file to read: `--config`, then $SECRETPROXY_CONFIG, then ./secretproxy.toml if it is there."""
    if config is not None:
        return config
    named = os.environ.get("SECRETPROXY_CONFIG")
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def revealed(dsn: SecretStr | None) -> str | None:
    """A connection string as it is opened with; None where the setting is unset."""
    return None if dsn is None else dsn.get_secret_value()


def socket_file(directory: Path, port: int) -> Path:
    """The file of a server's Unix socket (UNIXSOCK_PATH of src/include/libpq/pqcomm.h)."""
    return directory / f".s.PGSQL.{port}"


def review_database(dsn: str | None, config: Path | None) -> str | None:
    """The database that a command looks at: --dsn, then audit.review_dsn; None: as the PG* variables say. Raises ConfigError."""
    if dsn is not None and config is None:
        return dsn
    found = load_settings(config).audit.review_dsn
    return revealed(found) if dsn is None else dsn


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
                f"{path}: no such file{how}; name the configuration with --config FILE, or write one with `secretproxy init`"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read{how}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _check_environment()
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, path))) from None


def _check_environment() -> None:
    for name in os.environ:
        # Settings are taken from variables in any case.
        if not name.upper().startswith("SECRETPROXY_") or name in NOT_SETTINGS:
            continue
        section, _, key = name.upper().removeprefix("SECRETPROXY_").lower().partition("_")
        field = Settings.model_fields.get(section)
        if field is None or bool(key) == (section == "workers"):
            raise ConfigError(f"environment variable {name}: {_no_such('.'.join(filter(None, (section, key))))}")


def _variable(setting: str) -> str | None:
    """The environment variable that this setting comes from, where it does."""
    wanted = f"SECRETPROXY_{setting.replace('.', '_').upper()}"
    return next((name for name in os.environ if name.upper() == wanted), None)


def _settings() -> list[str]:
    """The names of all settings."""
    plain, sections = _sections()
    return [name for name, _ in plain] + [f"{name}.{key}" for name, model in sections for key in model.model_fields]


def _no_such(setting: str) -> str:
    near = difflib.get_close_matches(setting, _settings(), 1)
    return f"there is no such setting; {f'is {near[0]} meant?' if near else 'see config.example.toml'}"


def _nothing_such(name: str) -> str:
    """Of a name that stands in no section of the file."""
    plain, sections = _sections()
    near = difflib.get_close_matches(name, [f"[{section}]" for section, _ in sections] + [setting for setting, _ in plain], 1)
    return f"there is no such section, nor a setting outside sections; {f'is {near[0]} meant?' if near else 'see config.example.toml'}"


def _explain(error: ValidationError, path: Path | None) -> list[str]:
    """A line for each error, with where the value comes from: the environment overrules the file."""
    lines = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        setting = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        message = re.sub("^Input should be ", "it must be ", item["msg"].removeprefix("Value error, "))
        if item["type"] == "extra_forbidden":
            message = _no_such(setting) if "." in setting else _nothing_such(setting)
        # An error of several settings names them in its text.
        named = [setting] if setting else [known for known in _settings() if re.search(rf"\b{re.escape(known)}\b", message)]
        variable = next(filter(None, map(_variable, named)), None)
        source = f"environment variable {variable}: " if variable is not None else f"{path}: " if path is not None else ""
        lines.append(source + (f"{setting}: {message}" if setting else message))
    return lines


def _sections() -> tuple[list[tuple[str, FieldInfo]], list[tuple[str, type[BaseModel]]]]:
    """The settings outside sections, and the sections."""
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
    """The whole of config.example.toml: every setting with its meaning and its default."""
    out = [
        "# Every setting of secretproxy with its default. The environment overrules the file:",
        "# SECRETPROXY_LISTEN_PORT=6432 is [listen] port. Lines that start with #: unset by default.",
        "",
    ]
    plain, sections = _sections()
    out += [_line(name, _default(field), field.description) for name, field in plain]
    for name, model in sections:
        out += ["", f"[{name}]"]
        out += [_line(key, _default(field), field.description) for key, field in model.model_fields.items()]
    return "\n".join(out) + "\n"


# What a new installation has to think about.
_FIRST = (
    "listen.host", "listen.port", "backend.hosts", "audit.dsn", "audit.review_dsn", "testimony.key_file", "health.host", "health.port",
)  # fmt: skip


def starter(values: dict[str, object]) -> str:
    """A configuration to begin with: what has to be thought about is set, to `values` or the default, all else is a comment."""
    out = ["# Settings of secretproxy. Lines that begin with # show defaults. The environment overrules this file:",
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
    """The whole of docs/configuration.md."""
    out = [
        "# Configuration",
        "",
        "In rising order: the TOML file (`--config FILE`, else `$SECRETPROXY_CONFIG`, else",
        "`./secretproxy.toml`), the environment, the command line. The variable of `listen.port` is",
        "`SECRETPROXY_LISTEN_PORT`; lists are separated by commas. An unknown or impossible setting stops",
        "the command with exit status 2 and a line that names it.",
        "`config.example.toml` holds the same as a file.",
    ]
    plain, sections = _sections()
    out += _table("", plain)
    for name, model in sections:
        out += _table(name, list(model.model_fields.items()))
    return "\n".join(out) + "\n"


def _table(section: str, fields: list[tuple[str, FieldInfo]]) -> list[str]:
    rows = [f"## [{section}]" if section else "## Outside sections", "", "| setting | default | meaning |", "| --- | --- | --- |"]
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
