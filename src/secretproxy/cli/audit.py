"""`secretproxy audit`: reviewing the access log and proving that nothing in it was altered."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import dataclasses
import json
import sys
import textwrap
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import typer

from secretproxy.config import ConfigError, load_settings

app = typer.Typer(help="Review and verify the access log.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)

_DSN = typer.Option(
    None, "--dsn", metavar="DSN", help="Log's database, as a member of secretproxy_auditor; default: the PG* variables."
)
_JSON = typer.Option(False, "--json", help="Print JSON.")
_CONFIG = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file.")
_SINCE = typer.Option(None, "--since", metavar="TIME", help="From then on: 2h, 7d, yesterday, 2026-11-24T09:30.")
_UNTIL = typer.Option(None, "--until", metavar="TIME", help="Until before then.")
_OWNER = typer.Option(None, "--owner", metavar="UUID", help="Owner of the secret.")
_SECRET = typer.Option(None, "--secret", metavar="NAME", help="Name of the secret.")
_USER = typer.Option(None, "--user", metavar="NAME", help="Database login.")
_JWT = typer.Option(None, "--jwt-user", metavar="UUID", help="User of the claim jwt.claims.user_id.")
_FUNCTION = typer.Option(None, "--function", metavar="NAME", help="Function, such as secrets_getter.")
_OPERATION = typer.Option(None, "--operation", metavar="KIND", help="read, write, verify or delete.")
_OUTCOME = typer.Option(None, "--outcome", metavar="KIND", help="ok, error, cancelled, lost, refused or unknown.")
_CLIENT = typer.Option(None, "--client", metavar="ADDRESS", help="Client's address or network.")
_APPLICATION = typer.Option(None, "--application", metavar="NAME", help="application_name of the session.")
_SESSION = typer.Option(None, "--session", metavar="UUID", help="One session.")
_Result = TypeVar("_Result")


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    import asyncpg

    from secretproxy.audit.review import explained

    try:
        return asyncio.run(work)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise explained(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _filter(**given: Any) -> Any:
    from secretproxy.audit.review import Filter, moment

    for option in ("since", "until"):
        if given.get(option) is not None:
            given[option] = moment(f"--{option}", given[option])
    return Filter(**given)


def _plain(value: Any) -> Any:
    """A value of the log as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _safe(value: Any) -> str:
    """A text of a client's for the terminal: what would move the cursor or hide is shown as an escape."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _names(row: Any) -> str:
    names = row["secret_names"]
    return "?" if names is None else ", ".join("(null)" if name is None else _safe(name) for name in names)


def _who(row: Any) -> str:
    who = _safe(row["db_user"])
    if row["role"] and row["role"] != row["db_user"]:
        who += f"/{_safe(row['role'])}"
    return who


def _how_ended(row: Any) -> str:
    ended = str(row["outcome"])
    if row["sqlstate"] and row["sqlstate"] != "00000":
        ended += f" {row['sqlstate']}"
    return ended


def _from(row: Any) -> str:
    address = "local" if row["client_addr"] is None else str(row["client_addr"]).removesuffix("/32")
    return f"{address} direct" if row["how"] == "direct" else address


def _console() -> Any:
    from rich.console import Console

    # In a pipe nothing is coloured and nothing is cut off.
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    return Console(**plain) if sys.stdout.isatty() else Console(**plain, width=1000, color_system=None)


def _print(console: Any, table: Any, **how: Any) -> None:
    """A table without the blanks that fill it up to the console's width."""
    with console.capture() as captured:
        console.print(table, **how)
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def _access_table(found: list[Any], width: int) -> Any:
    from rich.cells import cell_len
    from rich.table import Table

    wide = width >= 130
    piped = width >= 1000  # there nothing is cut
    gap = 2 if wide else 1
    heads = ["at", "user", "jwt user", "op", "owner", "secret", "outcome", "from"]
    most = {"user": 30 if wide else 14, "outcome": 15, "from": 40 if wide else 15}
    lines = []
    for row in found:
        owner = "?" if row["owner_id"] is None else str(row["owner_id"])
        lines.append(
            [
                row["at"].astimezone().strftime("%Y-%m-%d %H:%M:%S" if wide else "%m-%d %H:%M:%S"),
                _who(row),
                "" if row["accessed_by"] is None else str(row["accessed_by"]),
                row["operation"] or "?",
                owner if wide or len(owner) < 9 else owner[:8] + "…",
                _names(row),
                _how_ended(row),
                _from(row),
            ]
        )
    widths = [
        min(max(map(cell_len, (head, *(line[place] for line in lines)))), width if piped else most.get(head, width))
        for place, head in enumerate(heads)
    ]
    shown = [place for place in range(len(heads)) if wide or heads[place] != "jwt user"]
    # The secret's name gets what the others leave.
    name = heads.index("secret")
    others = sum(widths[place] + gap for place in shown if place != name)
    widths[name] = max(8, min(widths[name], width - others))
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for place in shown:
        table.add_column(heads[place], no_wrap=True, overflow="ellipsis", width=widths[place])
    colours = {"ok": None, "unknown": "yellow", "cancelled": "yellow", "lost": "yellow"}
    for line, row in zip(lines, found, strict=True):
        table.add_row(*(line[place] for place in shown), style=colours.get(row["outcome"], "red"))
    return table


def _record(row: Any) -> dict[str, Any]:
    return {name: _plain(row[name]) for name in row.keys()}  # noqa: SIM118 - an asyncpg.Record


@app.command("list")
def list_(
    since: str | None = _SINCE, until: str | None = _UNTIL, owner: str | None = _OWNER, secret: str | None = _SECRET,
    user: str | None = _USER, jwt_user: str | None = _JWT, function: str | None = _FUNCTION, operation: str | None = _OPERATION,
    outcome: str | None = _OUTCOME, client: str | None = _CLIENT, application: str | None = _APPLICATION, session: str | None = _SESSION,
    limit: int = typer.Option(100, "--limit", "-n", min=0, help="The newest so many; 0: all."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, a line each."),
    as_csv: bool = typer.Option(False, "--csv", help="Print CSV."),
    spool: Path | None = typer.Option(None, "--spool", metavar="DIR", help="What waits in a spool, instead of what is in the log."),
    dsn: str | None = _DSN,
) -> None:  # fmt: skip
    """List accesses of secrets, oldest first."""
    from secretproxy.audit import review, spooled

    wanted = _filter(
        since=since, until=until, owner=owner, secret=secret, user=user, jwt_user=jwt_user, function=function, operation=operation,
        outcome=outcome, client=client, application=application, session=session,
    )  # fmt: skip
    if as_json and as_csv:
        raise ConfigError("--json and --csv: give one of them")
    wanted.where()
    console = _console()

    def show(found: list[Any], *, empty: str) -> None:
        if not found:
            console.print(empty)
            return
        _print(console, _access_table(found, console.width))
        if limit and len(found) == limit:
            print(f"the newest {limit}; --limit 0 shows all", file=sys.stderr)

    async def work() -> None:
        connection = await review.connect(dsn)
        try:
            rows = review.accesses(connection, wanted, limit or None)
            if as_json or as_csv:
                write = _writer(sys.stdout, as_csv)
                async for row in rows:
                    write(row)
                return
            found = [row async for row in rows]
            some = found or await connection.fetchval("SELECT EXISTS (SELECT FROM secretproxy.access_log)")
            show(found, empty="no access fits" if some else "the log is empty")
        finally:
            await connection.close()

    if spool is None:
        _run(work())
        return
    waiting = spooled.accesses(spool, wanted, limit or None)
    if as_json or as_csv:
        write = _writer(sys.stdout, as_csv)
        for row in waiting:
            write(row)
        return
    show(waiting, empty="nothing that fits waits in the spool")


def _writer(file: Any, as_csv: bool) -> Callable[[Any], None]:
    """Writes rows one by one, exactly as they are: JSON lines, or CSV with a heading."""
    if not as_csv:
        return lambda row: print(json.dumps(_record(row)), file=file)
    heading: list[str] = []

    def write(row: Any) -> None:
        record = _record(row)
        writer = csv.DictWriter(file, list(record))
        if not heading:
            heading.extend(record)
            writer.writeheader()
        writer.writerow({name: json.dumps(value) if isinstance(value, list) else value for name, value in record.items()})

    return write


@app.command()
def show(
    session: str = typer.Argument(..., metavar="SESSION", help="Session id, as `audit list --json` shows it."),
    dsn: str | None = _DSN,
    as_json: bool = _JSON,
) -> None:
    """Show one session's story."""
    from secretproxy.audit import review

    wanted = review.as_uuid("SESSION", session)

    async def work() -> list[Any]:
        connection = await review.connect(dsn)
        try:
            return await review.story(connection, wanted)
        finally:
            await connection.close()

    found = _run(work())
    if as_json:
        for row in found:
            print(json.dumps(_record(row)))
        return
    console = _console()
    if not found:
        console.print("no such session in the log")
        raise typer.Exit(1)
    terminal = sys.stdout.isatty()
    first = found[0]
    address = "a Unix socket" if first["client_addr"] is None else f"{first['client_addr']} port {first['client_port']}"
    console.print(f"session      {wanted}", soft_wrap=True)
    console.print(f"login        {_safe(first['db_user'])}, database {_safe(first['database'])}", soft_wrap=True)
    console.print(f"application  {_safe(first['application_name']) or '-'}", soft_wrap=True)
    console.print(f"from         {address}, {'TLS' if first['tls'] else 'no TLS'}", soft_wrap=True)
    console.print()
    for row in found:
        what = row["event"]
        if what == "outcome":
            seconds = "" if row["duration"] is None else f" after {row['duration'] * 1000:.1f} ms"
            text = f"  {row['outcome']}{' ' + row['sqlstate'] if row['sqlstate'] else ''}{seconds}, ran {row['calls'] or 0} times"
        else:
            owner = str(row["owner_id"] or "?")
            function = _safe(row["function"])
            if terminal and console.width < 130:
                owner = owner if len(owner) < 9 else owner[:8] + "…"
                function = function.partition("(")[0].removeprefix("encrypted_secrets.")
            names = "" if row["secret_names"] is None and row["owner_id"] is None else f" {_names(row)} of {owner}"
            text = f"{what} {function}{names}"
            if row["via"]:
                text += f" via {', '.join(map(_safe, row['via']))}"
            if row["accessed_by"]:
                text += f" for {row['accessed_by']}"
        line = f"{row['at'].astimezone():%Y-%m-%d %H:%M:%S} #{row['statement_no'] or '-':<4} {text}"
        print(
            "\n".join(textwrap.wrap(line, console.width, subsequent_indent=" " * 26, break_on_hyphens=False))
            if terminal
            else line
        )


@app.command()
def stats(
    since: str | None = _SINCE, until: str | None = _UNTIL, owner: str | None = _OWNER, secret: str | None = _SECRET,
    user: str | None = _USER, operation: str | None = _OPERATION, client: str | None = _CLIENT,
    limit: int = typer.Option(10, "--limit", "-n", min=1, max=1000, help="Lines of each table."),
    evening: int = typer.Option(22, "--evening", min=0, max=24, help="Hour from which a read is unusual."),
    morning: int = typer.Option(6, "--morning", min=0, max=24, help="Hour until which a read is unusual."),
    as_json: bool = _JSON, dsn: str | None = _DSN,
) -> None:  # fmt: skip
    """Count accesses, and show what is unusual."""
    from rich.table import Table

    from secretproxy.audit import review

    wanted = _filter(since=since, until=until, owner=owner, secret=secret, user=user, operation=operation, client=client)

    async def work() -> dict[str, list[dict[str, Any]]]:
        connection = await review.connect(dsn)
        try:
            answers = await review.stats(connection, wanted, limit=limit, evening=evening, morning=morning)
            if not answers["outcomes"] and not as_json:
                some = await connection.fetchval("SELECT EXISTS (SELECT FROM secretproxy.access_log)")
                print("no access fits" if some else "the log is empty")
            return answers
        finally:
            await connection.close()

    answers = _run(work())
    if as_json:
        print(json.dumps({name: [{k: _plain(v) for k, v in row.items()} for row in found] for name, found in answers.items()}))
        return
    console = _console()
    if not answers["outcomes"]:
        return
    zone = review.local_zone()[0]
    titles = {
        "secrets": "by secret", "users": "by user", "hours": f"by hour ({zone})", "outcomes": "by outcome",
        "first_time": "first use of a secret by a user", "at_night": f"reads between {evening}:00 and {morning}:00 ({zone})",
        "many_verifies": "five or more verifies of a secret in a row",
    }  # fmt: skip
    for name, found in answers.items():
        if not found:
            continue
        console.print(titles[name], style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        most = max((row["n"] for row in found if "n" in row), default=1)
        for row in found:
            cells = []
            for key, value in row.items():
                if key == "n":
                    cells += [f"{value:>8}", "█" * max(1, round(20 * value / most))]
                elif isinstance(value, datetime):
                    cells.append(f"{value.astimezone():%m-%d %H:%M}")
                elif isinstance(value, uuid.UUID):
                    cells.append(str(value) if console.width >= 130 else str(value)[:8] + "…")
                elif key == "failed":
                    cells.append(f"{value} failed")
                elif key == "hour":
                    cells.append(f"{value:02}:00")
                else:
                    cells.append(_safe(value) or "-")
            table.add_row(*cells)
        _print(console, table, no_wrap=True, overflow="ellipsis")
        console.print()


@app.command()
def tail(as_json: bool = _JSON, dsn: str | None = _DSN) -> None:
    """Follow accesses as they happen."""
    from secretproxy.audit import review
    from secretproxy.audit.beside import CHANNEL
    from secretproxy.audit.following import Follower

    async def work() -> None:
        import asyncpg

        follower = Follower()
        first = True
        while True:
            try:
                connection = await review.connect(dsn)
            except ConfigError:
                if first:
                    raise
                await asyncio.sleep(1)
                continue
            try:
                wake = _Wake()
                await connection.add_listener(CHANNEL, wake)
                connection.add_termination_listener(wake)
                await follower.begin(connection)
                print("following the log" if first else "connected again", file=sys.stderr, flush=True)
                first = False
                told: set[uuid.UUID] = set()
                everywhere = True
                while not connection.is_closed():
                    for row in await follower.news(connection, told, everywhere=everywhere):
                        _told(row, as_json)
                    sys.stdout.flush()
                    told, everywhere = await wake.wait()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if isinstance(error, BrokenPipeError) or getattr(error, "sqlstate", None) in ("42501", "42P01", "3F000"):
                    raise
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(connection.close(), 1)
            print("connection lost, connecting again", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2)

    _run(work())


class _Wake:
    """Takes the notices of journals: which instances have written."""

    # Direct calls tell nobody, and a notice can get lost with the process that owed it.
    EVERYWHERE = 1.0

    def __init__(self) -> None:
        self._told: set[uuid.UUID] = set()
        self._news = asyncio.Event()
        self._due = 0.0

    def __call__(self, *notice: Any) -> None:
        with contextlib.suppress(ValueError, IndexError):
            # Anybody may send a notice: what is in it is a hint where to look.
            self._told.add(uuid.UUID(notice[3]))
        self._news.set()

    async def wait(self) -> tuple[set[uuid.UUID], bool]:
        """Instances to look at, and whether it is time to look everywhere."""
        clock = asyncio.get_running_loop().time
        self._due = self._due or clock() + self.EVERYWHERE
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(0.0, self._due - clock()))
        self._news.clear()
        told, self._told = self._told, set()
        everywhere = clock() >= self._due
        if everywhere:
            self._due = clock() + self.EVERYWHERE
        return told, everywhere


def _told(row: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_record(row)))
        return
    owner = "?" if row["owner_id"] is None else str(row["owner_id"])
    print(f"{row['at'].astimezone():%H:%M:%S}  {_who(row)}  {row['operation'] or '?'}  {_names(row)} of {owner}  {_from(row)}")


@app.command()
def export(
    output: Path = typer.Argument(..., metavar="FILE", help="Where to; - is standard output."),
    form: str = typer.Option("jsonl", "--format", "-f", metavar="FORM", help="jsonl, csv or parquet."),
    since: str | None = _SINCE, until: str | None = _UNTIL, owner: str | None = _OWNER, secret: str | None = _SECRET,
    user: str | None = _USER, operation: str | None = _OPERATION, client: str | None = _CLIENT, session: str | None = _SESSION,
    dsn: str | None = _DSN,
) -> None:  # fmt: skip
    """Write the log's rows, with their hashes, to a file."""
    from secretproxy.audit import review

    if form not in ("jsonl", "csv", "parquet"):
        raise ConfigError("--format: one of jsonl, csv, parquet")
    if form == "parquet":
        try:
            import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
        except ImportError:
            raise ConfigError("--format parquet needs pyarrow: run `pip install pyarrow`, or take jsonl") from None
        if str(output) == "-":
            raise ConfigError("--format parquet needs a file")
    wanted = _filter(
        since=since, until=until, owner=owner, secret=secret, user=user, operation=operation, client=client, session=session
    )
    wanted.where()

    async def work() -> int:
        connection = await review.connect(dsn)
        count = 0
        try:
            if form == "parquet":
                return await _parquet(review.rows(connection, wanted), output)
            file: Any = sys.stdout
            if str(output) != "-":
                try:
                    file = output.open("w", encoding="utf-8", newline="")
                except OSError as error:
                    raise ConfigError(f"{output}: cannot be written: {error.strerror}") from None
            try:
                write = _writer(file, form == "csv")
                async for row in review.rows(connection, wanted):
                    write(row)
                    count += 1
            finally:
                if file is not sys.stdout:
                    file.close()
        finally:
            await connection.close()
        return count

    count = _run(work())
    print(f"{count} rows", file=sys.stderr)


async def _parquet(rows: Any, output: Path) -> int:
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    from secretproxy.audit.rows import COLUMNS

    kinds = {
        "at": pyarrow.timestamp("us", tz="UTC"), "seq": pyarrow.int64(), "statement_no": pyarrow.int64(), "calls": pyarrow.int64(),
        "client_port": pyarrow.int32(), "tls": pyarrow.bool_(), "duration": pyarrow.float64(), "prev_hash": pyarrow.binary(),
        "row_hash": pyarrow.binary(), "secret_names": pyarrow.list_(pyarrow.string()), "via": pyarrow.list_(pyarrow.string()),
    }  # fmt: skip
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    count = 0
    with pyarrow.parquet.ParquetWriter(output, schema) as writer:
        batch: list[dict[str, Any]] = []

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            batch.clear()

        async for row in rows:
            batch.append({name: row[name] if name in kinds or row[name] is None else str(row[name]) for name in COLUMNS})
            count += 1
            if len(batch) == 10_000:
                flush()
        flush()
    return count


@app.command()
def verify(
    file: Path | None = typer.Option(None, "--file", metavar="FILE", help="An export (jsonl) instead of the database."),
    checkpoints: Path | None = typer.Option(
        None, "--checkpoints", metavar="FILE", help="Checkpoints kept elsewhere; default: audit.checkpoint_file."
    ),
    public_key: Path | None = typer.Option(
        None, "--public-key", metavar="FILE", help="PEM key of the checkpoints; default: beside audit.checkpoint_key_file."
    ),
    dsn: str | None = _DSN,
    config: Path | None = _CONFIG,
    as_json: bool = _JSON,
) -> None:
    """Prove that no row was changed, removed or added. Exit status 1 where one was."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from secretproxy.audit import checkpoints as kept
    from secretproxy.audit import verify as verifying

    audit = load_settings(config).audit
    if public_key is None and audit.checkpoint_key_file is not None and kept.public_file(audit.checkpoint_key_file).exists():
        public_key = kept.public_file(audit.checkpoint_key_file)
    if checkpoints is None and audit.checkpoint_file is not None and audit.checkpoint_file.exists():
        checkpoints = audit.checkpoint_file
    key = kept.load_public(public_key) if public_key is not None else None
    outside: list[Any] = []
    unreadable: list[int] = []
    if checkpoints is not None:
        for number, checkpoint in kept.read_file(checkpoints):
            if checkpoint is None:
                unreadable.append(number)
            else:
                outside.append(checkpoint)
    console = Console(stderr=True)
    if file is not None:
        try:
            with file.open(encoding="utf-8") as lines:
                report = verifying.verify_export(lines, outside, key)
        except OSError as error:
            raise ConfigError(f"--file {file}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"--file {file}: {error}") from None
    else:
        with Progress(
            "rows", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("rows", total=None)
            report = _run(
                verifying.verify_database(
                    dsn, outside, key, lambda done, total: bar.update(task, completed=done, total=total and max(done, total))
                )
            )
    for number in unreadable:
        report.add("-", None, "checkpoint", f"line {number} of {checkpoints} is not a checkpoint")
    if as_json:
        print(json.dumps({"sound": report.sound, **dataclasses.asdict(report)}))
    else:
        for finding in report.findings:
            where = f"instance {finding.instance}" + ("" if finding.seq is None else f" row {finding.seq}")
            print(f"{finding.kind}: {where}: {finding.text}")
        if report.more_findings:
            print(f"and {report.more_findings} more")
        print(f"{report.rows} rows of {report.instances} instances, {report.direct} direct calls outside the chains")
        if report.checkpoints and key is None:
            print(f"{report.checkpoints} checkpoints, their signatures not checked: give --public-key")
        elif report.checkpoints:
            print(
                f"{report.checkpoints} checkpoints; {report.unsigned} rows came after the last one of their instance, "
                f"{report.open} instances have no signed end (running, or killed)"
            )
        else:
            print("no checkpoints: rows cut off at the end would not show (see audit.checkpoint_key_file)")
        print("nothing was altered" if report.sound else f"{len(report.findings) + report.more_findings} damages found")
    raise typer.Exit(0 if report.sound else 1)


@app.command()
def retention(
    keep: str | None = typer.Option(None, "--keep", metavar="TIME", help="Such as '400 days'; default: audit.retention."),
    drop: bool = typer.Option(False, "--drop", help="Drop old months; default: detach them, their tables stay."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would go."),
    dsn: str | None = typer.Option(
        None, "--dsn", metavar="DSN", help="Log's database, as its owner; default: the PG* variables."
    ),
    config: Path | None = _CONFIG,
) -> None:
    """Take old months out of the log.

    How each chain in them ended is signed first, so that the rest still verifies.
    """
    from secretproxy.audit import retention as months
    from secretproxy.audit import review, verify
    from secretproxy.audit.checkpoints import Signer, load_public, public_file

    audit = load_settings(config).audit
    keep = keep or audit.retention
    if keep is None:
        raise ConfigError("how long is the log to be kept? Give --keep, or set audit.retention")
    if audit.checkpoint_key_file is None:
        raise ConfigError(
            "audit.checkpoint_key_file is unset: without a signed end nobody could tell retention from a theft of rows"
        )
    signer = Signer(audit.checkpoint_key_file, audit.checkpoint_file, audit.checkpoint_command)
    public = public_file(audit.checkpoint_key_file)

    async def work() -> int:
        connection = await review.connect(dsn)
        try:
            await connection.execute("SET default_transaction_read_only = off")
            if not dry_run:
                for name in await months.settle(connection):
                    print(f"{name}: made of rows whose month had no partition")
            found = await months.old(connection, keep)
            for partition in found:
                print(f"{partition.name}: {partition.rows} rows, until {partition.upto:%Y-%m-%d}")
            if not found:
                print("nothing is that old")
            if dry_run or not found:
                return 0
            report = await verify.verify_database(
                dsn, [], load_public(public) if public.exists() else None, lambda done, total: None
            )
            if not report.sound:
                print("the log does not verify, nothing was removed: see `secretproxy audit verify`", file=sys.stderr)
                return 1
            await months.remove(connection, found, signer, drop=drop, progress=lambda gone: print(f"{gone.name}: removed"))
        finally:
            await connection.close()
        return 0

    raise typer.Exit(_run(work()))
