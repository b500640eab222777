"""`secretproxy audit`: reviewing the access log and proving that nothing in it was altered.

One module a command, registered here.
"""

from __future__ import annotations

import typer

from secretproxy.cli.audit import (
    events,
    evidence,
    export,
    listing,
    retention,
    reviewing,
    show,
    stats,
    subjects,
    tail,
    unused,
    verify,
)

app = typer.Typer(
    help="Review and verify the access log.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

app.command("list")(listing.list_)
app.command("show")(show.show)
app.command("events")(events.events)
app.command("stats")(stats.stats)
app.command("bursts")(stats.bursts)
app.command("compare")(stats.compare)
app.command("unused")(unused.unused)
app.command("secret")(subjects.secret)
app.command("user")(subjects.user)
app.command("incident")(subjects.incident)
app.command("review")(reviewing.review)
app.command("tail")(tail.tail)
app.command("export")(export.export)
app.command("evidence")(evidence.evidence)
app.command("verify")(verify.verify)
app.command("retention")(retention.retention)
