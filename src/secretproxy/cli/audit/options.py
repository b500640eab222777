"""Defines the options of the `secretproxy audit` commands, their filter, their connection to the log, and how errors
end a command.

What is imported for the work alone is imported when it is done: `--help` must not wait for it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import typer

from secretproxy.cli.work import finish
from secretproxy.config import ConfigError

DSN = typer.Option(
    None,
    "--dsn",
    metavar="DSN",
    help="Log's database, as a member of secretproxy_auditor; default: audit.review_dsn, then PG*.",
)
JSON = typer.Option(False, "--json", help="Print JSON.")
JSON_LINES = typer.Option(False, "--json", help="Print JSON, a line each.")
CSV = typer.Option(False, "--csv", help="Print CSV.")
RAW = typer.Option(
    False, "--raw", help="CSV exactly as logged; default: a ' before text that a spreadsheet would run as a formula."
)
CONFIG = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file.")
CHECKPOINTS = typer.Option(
    None, "--checkpoints", metavar="FILE", help="Checkpoints kept elsewhere; default: audit.checkpoint_file."
)
PUBLIC_KEY = typer.Option(
    None,
    "--public-key",
    metavar="FILE",
    help="PEM key of the checkpoints; default: the .pub file of audit.checkpoint_key_file.",
)
ACCEPT_UNSIGNED = typer.Option(
    False,
    "--accept-unsigned",
    help="Accept unsigned chains (of processes without a key) and unsigned manifests.",
)
SINCE = typer.Option(None, "--since", metavar="TIME", help="From this time on: 2h, 7d, yesterday, 2026-11-24T09:30.")
UNTIL = typer.Option(None, "--until", metavar="TIME", help="Before this time.")
OWNER = typer.Option(None, "--owner", metavar="UUID", help="Owner of the secret: a uuid, or a unique prefix of it.")
SECRET = typer.Option(None, "--secret", metavar="NAME", help="Name of the secret.")
USER = typer.Option(None, "--user", metavar="NAME", help="Database login.")
JWT = typer.Option(
    None, "--jwt-user", metavar="UUID", help="User of the claim jwt.claims.user_id: a uuid, or a unique prefix of it."
)
FUNCTION = typer.Option(None, "--function", metavar="NAME", help="Function, such as secrets_getter.")
OPERATION = typer.Option(None, "--operation", metavar="KIND", help="read, write, verify or delete.")
OUTCOME = typer.Option(
    None, "--outcome", metavar="KIND", help="ok, error, cancelled, lost, refused or unknown; several: error,lost."
)
CLIENT = typer.Option(None, "--client", metavar="ADDRESS", help="Client's address or network.")
APPLICATION = typer.Option(None, "--application", metavar="NAME", help="application_name of the session.")
SESSION = typer.Option(None, "--session", metavar="UUID", help="Session id, or a unique prefix of it.")
LIMIT = typer.Option(
    None,
    "--limit",
    "-n",
    metavar="N",
    min=0,
    help="Number of the newest rows; 0: all. Default: 100 in a terminal, all elsewhere.",
)
LINES = typer.Option(
    None,
    "--limit",
    "-n",
    metavar="N",
    min=0,
    help="Lines of each table; 0: all. Default: 10 in a terminal, all elsewhere.",
)
# Options for the other columns of an access, by the fields of the filter.
_MORE = {
    "role": ("NAME", "Role that the call ran as, where it is not the login."),
    "sqlstate": ("CODE", "SQLSTATE of an error, such as 42501."),
    "calls": ("N", "How often the call ran."),
    "duration": ("SECONDS", "Statements that took at least this long."),
    "database": ("NAME", "Database of the session."),
    "stored": ("HOW", "How the value is stored: pgp, crypt or none."),
    "via": ("FUNCTION", "Function on the path of the call."),
    "how": ("KIND", "attempt, access, call, direct or refusal."),
    "protocol": ("KIND", "simple, extended or fastpath."),
    "fingerprint": ("TEXT", "Fingerprint of the statement."),
    "port": ("N", "Client's port."),
    "statement": ("N", "Number of the statement in its session."),
    "instance": ("UUID", "Chain: the process that wrote the row, or a unique prefix of it."),
    "seq": ("N", "Number of the row in its chain."),
    "id": ("UUID", "Row's own id."),
}
_Result = TypeVar("_Result")


def with_more_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `**more` an option for each other column of an access."""
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(None, f"--{name}", metavar=metavar, help=text),
            annotation="str | None",
        )
        for name, (metavar, text) in _MORE.items()
    ]

    @functools.wraps(command)
    def made(**given: Any) -> None:
        command(**given)

    signature = inspect.signature(command)
    kept = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    made.__annotations__ = {
        **{name: hint for name, hint in command.__annotations__.items() if name != "more"},
        **{one.name: one.annotation for one in more},
    }
    made.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept), *more]
    )
    return made


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs a command's work. Raises ConfigError if the log could not be read."""
    from secretproxy.audit.review import explained
    from secretproxy.connections import ConnectError

    try:
        return finish(work)
    except ConnectError as error:
        raise explained(error) from None


def filtered(**given: Any) -> Any:
    """Makes the filter of the given options. Raises ConfigError for invalid ones."""
    from secretproxy.audit.filters import Filter, moment
    from secretproxy.connections.conninfo import as_utf8

    given = {option: as_utf8(value) if isinstance(value, str) else value for option, value in given.items()}
    for option in ("since", "until"):
        if given.get(option) is not None:
            given[option] = moment(f"--{option}", given[option])
    begin, end = given.get("since"), given.get("until")
    if begin is not None and end is not None and begin >= end:
        raise ConfigError("--since, --until: the first is not before the second, so that no time is between them")
    given["outcome"] = tuple(
        kind.strip() for several in given.get("outcome") or () for kind in several.split(",") if kind.strip()
    )
    wanted = Filter(**given)
    wanted.conditions()
    return wanted


def limit_of(limit: int | None, default: int, machine: bool) -> int | None:
    """Gives the number of rows to show; None: all. Output for programs is complete by default."""
    if limit is None:
        return None if machine or not sys.stdout.isatty() else default
    # No log has so many rows, and PostgreSQL no number for more.
    return limit if 0 < limit < 2**62 else None
