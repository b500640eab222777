"""Makes each await of the proxy, and each call of its session and journal, fail once, with an error whose text is a
value: nothing leaks, nothing hangs, the proxy serves on, and no client got a value that the log knows nothing of.

INJECT=all tries every error at every point (`make inject`), INJECT=relay. at those whose names begin so; otherwise
INJECT pairs of point and error are drawn, and INJECT_SEED, which is printed, draws the same again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.canary import MARKER, held

SHARE = os.environ.get("INJECT", "15")
SEED = os.environ.get("INJECT_SEED") or str(random.randrange(1_000_000))
SETUP = """
CREATE TABLE IF NOT EXISTS public.disguises (name text, value text);
GRANT ALL ON public.disguises TO PUBLIC;
CREATE OR REPLACE FUNCTION public.disguised(owner uuid, n text, v text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RETURN encrypted_secrets.secrets_getter(owner, n, v); END $$;
"""
# What a round without failures does not come to: TLS, scram logins, several servers.
UNREACHED = (
    "login.",
    "users.",
    "tls.",
    "hosts.",
    "own.",
    "backend._tcp",
    "backend.reach",
    "startup.Client._secure",
    "startup.Client._begin_logged_in",
)


@pytest.fixture(scope="module")
def campaign(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute(SETUP)
    directory = tmp_path_factory.mktemp("injected")
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [
            sys.executable, "-m", "tests.faults.injected",
            postgres.address, postgres.dsn("journal"), str(postgres.key_file), str(directory), MARKER, SHARE, SEED,
        ],
        cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert found.returncode == 0, f"INJECT_SEED={SEED}: {found.stderr[-3000:]}"
    report: dict[str, Any] = json.loads(found.stdout)
    report["stderr"] = found.stderr
    return report


@pytest.mark.timeout(3600)
def test_every_point_is_tried(campaign: dict[str, Any]) -> None:
    print(
        f"INJECT_SEED={SEED}: {len(campaign['points'])} points, {len(campaign['reachable'])} reached, {len(campaign['rounds'])} rounds"
    )
    first = campaign["rounds"][0]
    assert first["probed"] and not first["hung"] and len(first["received"]) > 9
    # Of what every session goes through, everything is reached but what needs a failure to be come to.
    core = [
        p
        for p in campaign["points"]
        if p.startswith(("relay.", "session_log.", "handshake.", "journal.", "orphan.")) and not p.startswith(UNREACHED)
    ]
    reached = [p for p in core if p in campaign["reachable"]]
    print("not reached:", sorted(set(core) - set(reached)))
    assert len(reached) > 30 and len(campaign["reachable"]) > 70
    unfired = [r["point"] for r in campaign["rounds"][1:] if not r["fired"]]
    assert len(unfired) <= len(campaign["rounds"]) / 5, unfired


def test_nothing_leaks(campaign: dict[str, Any]) -> None:
    leaks = [(r["point"], r["error"], r["leaked"]) for r in campaign["rounds"] if r["leaked"]]
    assert leaks == []
    assert not held(campaign["stderr"].encode())


def test_nothing_hangs_and_the_proxy_serves_on(campaign: dict[str, Any]) -> None:
    hung = [(r["point"], r["error"], r["hung"]) for r in campaign["rounds"] if r["hung"]]
    assert not hung, hung
    gone = [(r["point"], r["error"]) for r in campaign["rounds"] if r["began"] and not r["probed"]]
    assert gone == []


def test_no_client_got_a_value_that_the_log_knows_nothing_of(campaign: dict[str, Any], postgres: Backend) -> None:
    with psycopg.connect(postgres.dsn()) as sql:
        logged = Counter(
            row[0]
            for row in sql.execute(
                "SELECT unnest(secret_names) FROM secretproxy.access_log WHERE event IN ('attempt', 'access', 'call')"
                " AND owner_id = '11111111-2222-4333-8444-555555555555'"
            ).fetchall()
        )
        stored = {row[0] for row in sql.execute("SELECT name FROM public.disguises").fetchall()}
    missing = [
        (r["point"], r["error"], name)
        for r in campaign["rounds"]
        for name in r["received"]
        if name and name not in logged
    ]
    assert missing == []
    lost = stored - set(logged)
    print(f"{len(logged)} names in the log, {len(lost)} stored by statements of sessions that broke and not in it")
