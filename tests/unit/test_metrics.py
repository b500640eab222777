"""Checks that metrics of several workers are one set of numbers, whichever of them is asked, and Prometheus's own check
finds nothing wrong with them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from secretproxy.ops.metrics import Board, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found[sample.name + "".join(f" {value}" for value in sample.labels.values())] = sample.value
    return found


def test_workers_add_up_and_any_of_them_tells() -> None:
    board = Board(3)
    workers = [Metrics(board, place) for place in range(3)]
    for place, metrics in enumerate(workers):
        metrics.sessions.set(place)
        metrics.attempts.inc(10 + place)
        metrics.wrote(100)
        metrics.commit.observe(0.003)
        metrics.log_up.set(place != 1)
    told = [samples(metrics) for metrics in workers]
    for one in told:
        assert one["secretproxy_workers"] == 3
        assert one["secretproxy_sessions_open"] == 3
        assert one["secretproxy_attempts_total"] == 33
        assert one["secretproxy_events_written_total"] == 300
        assert one["secretproxy_commit_seconds_count"] == 3
        assert one["secretproxy_commit_seconds_bucket 0.002"] == 0
        assert one["secretproxy_commit_seconds_bucket 0.005"] == 3
        assert one["secretproxy_log_available"] == 0, "one worker cannot write"


def test_a_worker_that_is_started_again_goes_on_counting() -> None:
    board = Board(2)
    first, other = Metrics(board, 0), Metrics(board, 1)
    first.attempts.inc(5)
    first.wrote(7)
    first.sessions.set(3)
    before = samples(other)
    again = Metrics(board, 0)
    again.wrote(1)
    after = samples(again)
    assert after["secretproxy_attempts_total"] == 5
    assert after["secretproxy_events_written_total"] == 8
    assert after["secretproxy_sessions_open"] == 0, "its sessions are gone with it"
    assert all(after[name] >= value for name, value in before.items() if name.endswith("_total")), (
        "no counter goes back"
    )


def test_what_is_counted_is_told_once_it_is_written_and_adds_to_what_was_there() -> None:
    board = Board(2)
    first, other = Metrics(board, 0), Metrics(board, 1)
    first.attempts.inc(2)
    first.attempts.count(3)
    assert samples(other)["secretproxy_attempts_total"] == 2
    first.attempts.write()
    first.attempts.write()
    assert samples(other)["secretproxy_attempts_total"] == 5
    first.attempts.inc()
    assert samples(first)["secretproxy_attempts_total"] == 6
    first.attempts.count(1)
    first.committed(0.01)
    assert samples(other)["secretproxy_attempts_total"] == 7, "with the group that it is of"


def test_the_bounds_of_a_histogram_belong_to_the_bucket_below() -> None:
    metrics = Metrics()
    for seconds in (0.0, 0.0005, 0.00051, 10.0, 10.1, 1e9):
        metrics.hold.observe(seconds)
    told = samples(metrics)
    for bound, count in (("0.0005", 2), ("0.001", 3), ("5.0", 3), ("10.0", 4), ("+Inf", 6)):
        assert told[f"secretproxy_hold_seconds_bucket {bound}"] == count
    assert told["secretproxy_hold_seconds_count"] == 6 and told["secretproxy_hold_seconds_sum"] > 1e9


def test_a_worker_that_never_began_is_not_counted() -> None:
    board = Board(2)
    metrics = Metrics(board, 0)
    metrics.log_up.set(1)
    assert samples(metrics)["secretproxy_log_available"] == 1


def test_refusals_are_told_by_the_setting() -> None:
    metrics = Metrics()
    metrics.refuse_session("listen.max_sessions")
    metrics.refuse_session("listen.max_sessions")
    found = samples(metrics)
    assert found["secretproxy_sessions_refused_total listen.max_sessions"] == 2
    assert found["secretproxy_sessions_refused_total listen.max_connections"] == 0


def test_what_prometheus_says_of_them() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: it comes with Debian's package prometheus")
    metrics = Metrics()
    metrics.hold.observe(0.2)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.text(), capture_output=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
