"""Measures what an audited call and a harmless statement cost in the pure layers: no socket, no event loop, no
database.

One session is played Bind, Describe, Execute, Sync against a testified answer, and its events are made lines of the
log. The figures are microseconds of CPU a call, medians of rounds, and do not depend on what else the machine does as
much as throughput does. `--against DIR` measures a second checkout in turns with this one: what a change costs is the
ratio."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CALLS = 20_000
WORK = ("client's half", "backend's half", "its lines", "harmless, both ways")


def one_round(calls: int) -> dict[str, float]:
    """Plays `calls` audited calls and as many harmless statements; gives microseconds of CPU for each kind of work."""
    from tests.unit import playbook as wire

    from secretproxy.audit import rows
    from secretproxy.session.session import Step

    session = wire.Playbook().logged_in().session
    sql = "SELECT encrypted_secrets.secrets_getter($1, $2)"
    session.from_client(
        wire.parse(sql, "s", [2950, 25])
        + wire.parse("SELECT abalance FROM accounts WHERE aid = $1", "h", [23])
        + wire.SYNC
    )
    session.from_backend(wire.PARSE_COMPLETE + wire.PARSE_COMPLETE + wire.ready())

    call = (
        wire.bind([str(wire.OWNER).encode(), b"stripe_key"], statement="s")
        + wire.describe("P")
        + wire.execute()
        + wire.SYNC
    )
    answers = [
        wire.BIND_COMPLETE + wire.ROW_DESCRIPTION + wire.quoted("stripe_key", clock=wire.START + 2 + number)
        + wire.row("a secret value") + wire.complete() + wire.ready()
        for number in range(calls)
    ]  # fmt: skip
    # By way of rows: `--against` measures checkouts that have no module for masking.
    lines = rows.Lines(rows.NameMask(128, (), b"k" * 32), uuid.uuid4())
    spent = dict.fromkeys(WORK, 0.0)
    for answer in answers:
        times = [time.process_time_ns()]
        attempted = session.from_client(call)
        times.append(time.process_time_ns())
        assert isinstance(attempted, Step)
        assert len(attempted.commit) == 1, "the call is an attempt"
        for held in attempted.held:
            # The log has it, as the interpreter says; a checkout of before knows no such word.
            if hasattr(held.running, "waits"):
                held.running.waits = False
        sent = time.process_time_ns()
        answered = session.from_backend(answer)
        times.append(time.process_time_ns())
        assert isinstance(answered, Step)
        assert not answered.commit, "the attempt covers the testimony"
        assert len(answered.record) == 1, "the statement has an outcome"
        times.append(time.process_time_ns())
        lines.add(attempted.commit[0], 0, None)
        lines.add(answered.record[0], 0, 0.001)
        times.append(time.process_time_ns())
        spent["client's half"] += times[1] - times[0]
        spent["backend's half"] += times[2] - sent
        spent["its lines"] += times[4] - times[3]

    query = wire.bind([b"1"], statement="h") + wire.describe("P") + wire.execute() + wire.SYNC
    answer = wire.BIND_COMPLETE + wire.ROW_DESCRIPTION + wire.row("1") + wire.complete() + wire.ready()
    began = time.process_time_ns()
    for _ in range(calls):
        session.from_client(query)
        session.from_backend(answer)
    spent["harmless, both ways"] = time.process_time_ns() - began
    return {kind: nanoseconds / 1000 / calls for kind, nanoseconds in spent.items()}


def measured(tree: Path, calls: int) -> dict[str, float]:
    """Measures one round in a process of its own, with the sources of `tree`."""
    environment = os.environ | {"PYTHONPATH": f"{tree / 'src'}:{tree}"}
    told = subprocess.run(
        [sys.executable, str(Path(__file__)), "--round", "--calls", str(calls)],
        env=environment, cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(told.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS, help="a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="whose median counts (default: %(default)s)")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, measured in turns with this one")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.round:
        print(json.dumps(one_round(chosen.calls)))
        return
    trees = [ROOT] if chosen.against is None else [ROOT, chosen.against.resolve()]
    rounds: list[list[dict[str, float]]] = [[] for _ in trees]
    for number in range(chosen.rounds):
        print(f"round {number + 1}/{chosen.rounds}", file=sys.stderr)
        for found, tree in zip(rounds, trees, strict=True):
            found.append(measured(tree, chosen.calls))
    medians = [{kind: statistics.median(one[kind] for one in found) for kind in WORK} for found in rounds]
    if chosen.json:
        print(json.dumps(medians[0] if len(medians) == 1 else {"this": medians[0], "against": medians[1]}))
        return
    for kind in WORK:
        spread = f"({min(one[kind] for one in rounds[0]):.1f} to {max(one[kind] for one in rounds[0]):.1f})"
        beside = (
            "" if len(medians) == 1 else f"  against {medians[1][kind]:6.1f}: {medians[0][kind] / medians[1][kind]:.2f}"
        )
        print(f"{kind:22}{medians[0][kind]:6.1f} us a call  {spread}{beside}")


if __name__ == "__main__":
    main()
