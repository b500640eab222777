"""Prints the battery's table: how many evasions of each mechanism were tried, and how many left what they should in the
log."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

_counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        for name, value in report.user_properties:
            if name == "mechanism":
                known = hasattr(report, "wasxfail")
                _counts[str(value)]["known" if known else report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _counts:
        return
    terminalreporter.section("evasions by mechanism")
    width = max(map(len, _counts))
    terminalreporter.line(f"{'mechanism':{width}}  tried  passed  known")
    for mechanism, found in sorted(_counts.items()):
        terminalreporter.line(
            f"{mechanism:{width}}  {sum(found.values()):5}  {found['passed']:6}  {found['known'] or '':5}"
        )
    tried = sum(sum(found.values()) for found in _counts.values())
    passed = sum(found["passed"] for found in _counts.values())
    known = sum(found["known"] for found in _counts.values())
    terminalreporter.line(f"{'all':{width}}  {tried:5}  {passed:6}  {known or '':5}")
