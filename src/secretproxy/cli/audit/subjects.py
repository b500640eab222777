"""`secretproxy audit secret`, `audit user`, `audit incident`: one secret, one login, one compromise."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit.files import new_file
from secretproxy.cli.audit.options import (
    APPLICATION,
    CLIENT,
    CONFIG,
    CSV,
    DSN,
    JSON_LINES,
    JWT,
    OWNER,
    PUBLIC_KEY,
    SESSION,
    SINCE,
    UNTIL,
    filtered,
    run,
)
from secretproxy.cli.audit.showing import (
    Column,
    Layout,
    address,
    console_of,
    in_full,
    listed,
    names_of,
    output_for_programs,
    plain,
    print_line,
    quoted,
    record_of,
    safe,
    tell_place,
    zone,
)
from secretproxy.config import ConfigError, load_settings, review_database

_N = Column("accesses", lambda row: f"{row['n']:,}", right=True)
_FIRST = Column("first", lambda row: in_full(row["first"]))
_LAST = Column("last", lambda row: in_full(row["last"]))


def _show(columns: list[Column], rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(record_of(row)))
        return
    if not rows:
        return
    console = console_of()
    layout = Layout(columns, console.width if sys.stdout.isatty() else None)
    cells = layout.take(rows)
    print_line(console, layout.heading(), "bold")
    for line in cells:
        print_line(console, layout.line(line))


def _tell_zone(without: bool) -> None:
    """Says what zone the times of a table are of."""
    if not without:
        print(f"times are of {zone()}", file=sys.stderr)


async def _tell_none(connection: Any, login: str | None, otherwise: str = "no access matches") -> None:
    """Says that nothing was found, and whether the log knows the login at all: its name may be misspelt."""
    from secretproxy.audit import review

    if await review.is_empty(connection):
        print("the log is empty")
    elif login is not None and not await review.knows_login(connection, login):
        print(f"the log has no access by a login {quoted(login)}")
    else:
        print(otherwise)


def secret(
    name: str = typer.Argument(..., metavar="NAME", help="Name of the secret."),
    owner: str | None = OWNER, since: str | None = SINCE, until: str | None = UNTIL, as_json: bool = JSON_LINES,
    dsn: str | None = DSN,
    config: Path | None = CONFIG,
) -> None:  # fmt: skip
    """Show who used a secret, from where, when first and last.

    Also when it was last written.
    """
    from secretproxy.audit import review, subjects

    wanted = filtered(secret=name, owner=owner, since=since, until=until)
    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            found = await review.resolved(connection, wanted)
            users = await subjects.users_of(connection, found)
            written = await subjects.last_writes(connection, found)
            if as_json:
                kept = [
                    {"owner_id": plain(who), "secret": spelled, "at": plain(at)}
                    for (who, spelled), at in written.items()
                ]
                for row in users:
                    print(json.dumps({**record_of(row), "written": kept}))
                await tell_place(connection)
                return
            _show(
                [
                    Column("user", lambda row: safe(row["db_user"]), least=8),
                    Column("application", lambda row: safe(row["application_name"]), least=7),
                    Column("from", address, least=9), _N, _FIRST, _LAST,
                ], users, False,
            )  # fmt: skip
            if not users:
                print("the log is empty" if await review.is_empty(connection) else "no access matches")
            _tell_zone(not users)
            for (who, _), at in sorted(written.items(), key=lambda pair: pair[1]):
                unused = "" if any(row["last"] > at for row in users) else "; nobody has used it since"
                print(f"{who or 'an unknown owner'}: written last at {in_full(at)}{unused}", file=sys.stderr)
            await tell_place(connection)

    run(work())


def user(
    name: str = typer.Argument(..., metavar="NAME", help="Database login."),
    since: str | None = SINCE, until: str | None = UNTIL, application: str | None = APPLICATION,
    as_json: bool = JSON_LINES,
    dsn: str | None = DSN, config: Path | None = CONFIG,
) -> None:  # fmt: skip
    """Show which secrets a login used, when first and last.

    With --since, mark those that it had never used before.
    """
    from secretproxy.audit import review, subjects

    wanted = filtered(user=name, since=since, until=until, application=application)
    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            rows = await subjects.secrets_of(connection, await review.resolved(connection, wanted))
            columns = [
                Column("secret", names_of, least=10),
                Column("owner", lambda row: "?" if row["owner_id"] is None else str(row["owner_id"]), least=9), _N,
                _FIRST, _LAST,
            ]  # fmt: skip
            if since is not None:
                columns.append(Column("new", lambda row: "never before" if row["new"] else ""))
            _show(columns, rows, as_json)
            if not rows and not as_json:
                await _tell_none(connection, name)
            _tell_zone(as_json or not rows)
            await tell_place(connection)

    run(work())


def incident(
    user: str | None = typer.Option(
        None, "--user", metavar="NAME", help="Login that was compromised, also where another one took its role."
    ),
    jwt_user: str | None = JWT,
    application: str | None = APPLICATION,
    client: str | None = CLIENT,
    session: str | None = SESSION,
    since: str | None = typer.Option(
        None, "--since", metavar="TIME", help="Earliest possible beginning: 2h, 7d, 2026-11-24T09:30."
    ),
    until: str | None = UNTIL,
    as_json: bool = JSON_LINES,
    as_csv: bool = CSV,
    to: Path | None = typer.Option(
        None, "--to", metavar="FILE", help="Archive to write: the list, the log's rows and their manifest."
    ),
    public_key: Path | None = PUBLIC_KEY,
    dsn: str | None = DSN,
    config: Path | None = CONFIG,
) -> None:
    """List every secret that something compromised touched.

    Something is a login, a claim, an application, a client or a session; several options narrow it down. Secrets that
    should be rotated first come first.
    """
    # Long because its options are declared here, one a line.
    from secretproxy.audit import evidence, exporting, review, subjects
    from secretproxy.audit.checkpoints import public_key_of
    from secretproxy.cli.audit.recording import record

    given = {
        "user": user, "jwt_user": jwt_user, "application": application, "client": client, "session": session
    }  # fmt: skip
    if not any(given.values()):
        raise ConfigError("give what was compromised: --user, --jwt-user, --application, --client or --session")
    if since is None and session is None:
        raise ConfigError("--since: give the earliest possible beginning")
    wanted = subjects.compromised(filtered(**given, since=since, until=until))
    database = review_database(dsn, config)
    settings = load_settings(config)
    key_file = settings.audit.checkpoint_key_file
    form = "csv" if as_csv else "jsonl"

    async def keep(connection: Any, found: Any, to: Path) -> None:
        signer, key = exporting.signer_at_hand(key_file), public_key_of(public_key, key_file)
        read_as = (await review.place(connection)).user
        with new_file("--to", to) as write:
            async for part in evidence.incident_archive(connection, found, form, read_as, signer, key):
                write(part)

    async def work() -> None:
        async with review.reading(database) as connection:
            if to is not None:
                asked = {"format": form, **given, "since": since, "until": until}
                await record(connection, settings, "incident download", asked)
            found = await subjects.incident(connection, wanted, None)
            if to is not None:
                await keep(connection, found, to)
            elif as_json:
                for one in found.touched:
                    print(json.dumps(one.record()))
                if found.unknown:
                    nameless = dict.fromkeys(field.name for field in dataclasses.fields(subjects.Touched))
                    print(json.dumps({**nameless, "counts": dict(found.nameless)}))
            elif as_csv:
                output_for_programs()
                print(evidence.rotation_list(found, form), end="")
            elif not found.touched:
                await _tell_untouched(connection, found)
            else:
                names = ("name", "owner_id", "counts", "last", "written", "others", "last_write", "last_writer")
                rows = [{name: getattr(one, name) for name in names} for one in found.touched]
                _show(
                    [
                        Column("secret", lambda row: quoted(row["name"]), least=10),
                        Column("owner", lambda row: str(row["owner_id"]), least=9),
                        Column("touched by", lambda row: _counted(row["counts"].items())),
                        _LAST,
                        Column("written by another since", lambda row: _moment_or_no(row["written"])),
                        Column("last written", _last_write),
                        Column("also used by", lambda row: _others(row["others"]), least=10),
                    ],
                    rows,
                    False,
                )
            for word in found.remarks():
                print(word, file=sys.stderr)
            _tell_zone(as_json or not found.touched)
            await tell_place(connection)

    run(work())


async def _tell_untouched(connection: Any, found: Any) -> None:
    """Says that an incident has no secret; a login's name may be written otherwise."""
    nothing = "it touched no secret in that time, as far as this log goes"
    if found.of.user is None:
        await _tell_none(connection, None, nothing)
        return
    await _tell_none(connection, found.of.user, nothing)
    for name in found.alike:
        print(f"did you mean the login {quoted(name)}? To PostgreSQL it is another one")


def _counted(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts)


def _last_write(row: dict[str, Any]) -> str:
    return "not in the log" if row["last_write"] is None else f"{in_full(row['last_write'])} {safe(row['last_writer'])}"


def _moment_or_no(at: datetime | None) -> str:
    return "no" if at is None else in_full(at)


def _others(names: Sequence[str]) -> str:
    return listed(names) or "none"
