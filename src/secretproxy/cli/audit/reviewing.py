"""`secretproxy audit review`: how far the log is signed off, and signing it off further."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit.options import CONFIG, DSN, JSON, LINES, limit_of, run
from secretproxy.cli.audit.showing import console_of, in_full, plain, print_line, safe, say_more, tell_place, zone
from secretproxy.cli.audit.stats import IN_A_TERMINAL
from secretproxy.config import ConfigError, load_settings, review_database


def review(
    up_to: str | None = typer.Option(None, "--up-to", metavar="TIME", help=
        "Sign the log off up to this time: 1h, today, 2026-11-24T09:30."),
    note: str | None = typer.Option(None, "--note", metavar="TEXT", help="What you reviewed; needed with --up-to."),
    limit: int | None = LINES, as_json: bool = JSON,
    dsn: str | None = DSN,
    config: Path | None = CONFIG,
) -> None:  # fmt: skip
    """Show up to when the log is signed off, and what came since.

    With --up-to and --note, sign it off in the name of your login.
    """
    # Long because its options are declared here, one a line.
    from secretproxy.audit import review as questions
    from secretproxy.audit import reviews
    from secretproxy.audit.checkpoints import public_key_of
    from secretproxy.audit.filters import moment
    from secretproxy.cli.audit.recording import NotRecordedError, reading
    from secretproxy.connections.conninfo import as_utf8

    if (up_to is None) != (note is None):
        raise ConfigError("--up-to and --note: give both, or neither")
    until = None if up_to is None else moment("--up-to", up_to)
    most = limit_of(limit, IN_A_TERMINAL, as_json)
    database = review_database(dsn, config)
    settings = load_settings(config)

    async def sign_off(connection: Any, until: datetime, note: str) -> None:
        try:
            async with reading(connection, settings) as found:
                await reviews.sign_off(connection, found.recorder, found.who, 1, until, as_utf8(note))
        except NotRecordedError as error:
            raise ConfigError(f"the log is not signed off: {error}") from None

    async def work() -> None:
        async with questions.reading(database) as connection:
            if until is not None and note is not None:
                await sign_off(connection, until, note)
            key = public_key_of(None, settings.audit.checkpoint_key_file)
            state = await reviews.reviewed(connection, most, key)
            if as_json:
                print(json.dumps(_record(state)))
                await tell_place(connection)
                return
            console = console_of()
            for one, now in state.sign_offs:
                signed = {True: "signed", False: "not signed", None: "signature not checked"}[one.signed]
                rows = f"{one.heads.rows:,} rows ({now}; {signed})"
                text = f"{in_full(one.at)} {safe(one.reviewer)}: up to {in_full(one.up_to)}, {rows}: {safe(one.note)}"
                print_line(console, text)
            left = ", ".join(f"{n:,} {event}" for event, n in state.since.items()) or "nothing"
            since = "in all" if state.up_to is None else f"since {in_full(state.up_to)} ({zone()})"
            print(f"not signed off, {since}: {left}", file=sys.stderr)
            await tell_place(connection)
            more = state.count - len(state.sign_offs)
            if most is not None and more > 0:
                say_more(f"{len(state.sign_offs):,} newest sign-offs are shown, {more:,} more: --limit 0 shows all")

    run(work())


def _record(state: Any) -> dict[str, object]:
    return {
        "up_to": plain(state.up_to), "left": state.since,
        "sign_offs": [
            {
                "at": plain(one.at), "reviewer": one.reviewer, "up_to": plain(one.up_to), "note": one.note,
                "rows": one.heads.rows,
                "chains": one.heads.chains, "digest": one.heads.digest, "now": now, "signed": one.signed,
            }
            for one, now in state.sign_offs
        ],
    }  # fmt: skip
