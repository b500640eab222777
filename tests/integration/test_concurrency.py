"""Runs two hundred sessions at once: no event is lost, none doubled, none of another session's."""

from __future__ import annotations

import asyncio
import collections
import uuid

import asyncpg
import psycopg
from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

SESSIONS = 200
ROUNDS = 5


async def one_session(dsn: str, number: int) -> None:
    owner = uuid.UUID(int=0xC0FFEE0000 + number)
    cached = 100 if number % 2 else 0
    connection = await asyncpg.connect(
        dsn, statement_cache_size=cached, server_settings={"application_name": f"crowd-{number}"}, timeout=60
    )
    try:
        for turn in range(ROUNDS):
            assert await connection.fetchval("SELECT $1::int + 1", turn) == turn + 1
            await connection.fetchval(
                "SELECT encrypted_secrets.secrets_getter($1, $2)", owner, f"extended-{number}-{turn}"
            )
            await connection.execute(
                f"SELECT encrypted_secrets.secrets_upsert('{owner}', 'simple-{number}-{turn}', 'x')"
            )
            await connection.fetchval("SELECT crowd($1, $2)", owner, f"hidden-{number}-{turn}")
    finally:
        await connection.close()


def test_two_hundred_sessions(proxy: Proxy, postgres: Backend, log: AccessLog) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION crowd(owner uuid, name text) RETURNS text LANGUAGE plpgsql AS $$"
            " BEGIN RETURN encrypted_secrets.secrets_getter(owner, name); END $$"
        )
    log.mark()

    async def crowd() -> None:
        await asyncio.gather(*(one_session(proxy.dsn(), number) for number in range(SESSIONS)))

    asyncio.run(crowd())
    rows = [row for row in log.settled(seconds=30) if (row["application_name"] or "").startswith("crowd-")]
    kinds = collections.Counter(row["event"] for row in rows)
    assert kinds == {"attempt": SESSIONS * ROUNDS * 2, "call": SESSIONS * ROUNDS, "outcome": SESSIONS * ROUNDS * 3}
    named = collections.Counter(row["secret_names"][0] for row in rows if row["secret_names"])
    assert len(named) == SESSIONS * ROUNDS * 3 and set(named.values()) == {1}
    sessions = collections.defaultdict(set)
    for row in rows:
        if row["secret_names"]:
            number = int(row["application_name"].removeprefix("crowd-"))
            assert row["owner_id"].int == 0xC0FFEE0000 + number
            assert row["secret_names"][0].split("-")[1] == str(number)
            assert row["event"] == ("call" if row["secret_names"][0].startswith("hidden") else "attempt")
        else:
            assert row["outcome"] == "ok" and row["calls"] == 1
        sessions[row["session_id"]].add(row["application_name"])
    assert len(sessions) == SESSIONS and all(len(names) == 1 for names in sessions.values())


def test_the_chain_has_no_gap(proxy: Proxy, log: AccessLog) -> None:
    gaps = log.query(
        "SELECT count(*) AS n FROM (SELECT seq, lag(seq) OVER w AS before, prev_hash, lag(row_hash) OVER w AS hash"
        " FROM secretproxy.access_log WHERE instance IS NOT NULL WINDOW w AS (PARTITION BY instance ORDER BY seq)) c"
        " WHERE before IS NOT NULL AND (seq <> before + 1 OR prev_hash <> hash)"
    )
    assert gaps == [{"n": 0}]
